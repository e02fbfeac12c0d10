"""Imports what a run needs, which takes seconds, so that processes forked from this one have it at once."""

import importlib

from hbt_ray.tracking.server import load_mlflow

for _module in (
    "hbt_ray.cluster.evaluation.evaluate",
    "hbt_ray.cluster.pipelines.train",
    "hbt_ray.models.text_embedder",
    "hbt_ray.training.contrastive_trainer",
    "hbt_ray.training.local_runner",
    "mlflow.tracking",
    "sentence_transformers",
    "torch.nn.parallel",
):
    importlib.import_module(_module)
load_mlflow()
