"""Dreamer 4 on Ray: recorded play in, an agent improved in imagination out."""

__version__ = "0.1.0"
