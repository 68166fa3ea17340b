"""Planted bugs that the tests must find: a suite that cannot fail proves nothing."""
