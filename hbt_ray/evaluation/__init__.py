"""Retrieval metrics, language bias, reports and comparisons of runs; see README.md."""
