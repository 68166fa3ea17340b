"""Tests are claims: each docstring says why its claim is true."""
