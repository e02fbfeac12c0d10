"""The slow imports of all commands, for a process that commands are forked from."""

import importlib

for _name in (
    "datasets",
    "hbt_ray.cli",
    "hbt_ray.cluster.mining",
    "hbt_ray.cluster.pipelines.preload",
    "hbt_ray.cluster.pipelines.pretrain",
    "hbt_ray.cluster.pipelines.study",
    "hbt_ray.cluster.search.run_search",
    "hbt_ray.study.figures",
    "matplotlib.backends.backend_agg",
):
    importlib.import_module(_name)
