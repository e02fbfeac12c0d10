"""A search over runs: what is tried, what is wanted of it, and what came of it. Knows no Ray."""
