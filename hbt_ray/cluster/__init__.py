"""Ray, and only here: each function maps a pure one over the cluster."""
