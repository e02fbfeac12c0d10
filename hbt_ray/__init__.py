"""Hybrid batch training of multilingual retrievers."""

__version__ = "0.1.0"
