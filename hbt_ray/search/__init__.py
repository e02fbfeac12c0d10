"""Search over the settings of a run: candidates, objectives and results. No Ray here; see `hbt_ray.cluster.search`."""
