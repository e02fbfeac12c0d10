"""The slow imports of all commands, for a process that commands are forked from."""

import importlib

from hbt_ray.tracking.server import load_mlflow

for _name in (
    "datasets",
    "hbt_ray.cli",
    "hbt_ray.cluster.evaluation.evaluate",
    "hbt_ray.cluster.mining",
    "hbt_ray.cluster.pipelines.pretrain",
    "hbt_ray.cluster.pipelines.study",
    "hbt_ray.cluster.pipelines.train",
    "hbt_ray.cluster.search.run_search",
    "hbt_ray.evaluation.run_evaluation",
    "hbt_ray.study.figures",
    "hbt_ray.training.local_runner",
    "matplotlib.backends.backend_agg",
    "sentence_transformers",
    "torch.nn.parallel",
):
    importlib.import_module(_name)
load_mlflow()
