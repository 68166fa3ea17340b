"""MAGI: masked autoregressive video generation with Complete Teacher Forcing."""

__version__ = "0.1.0"
