"""Data: corpora, benchmarks, and their way into a token store."""
