"""Exact and approximate search among passages, in one process or in shards; see README.md."""
