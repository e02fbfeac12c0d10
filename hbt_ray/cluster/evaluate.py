"""A model measured by a task of the cluster, where its GPUs are."""

from __future__ import annotations

import os
from pathlib import Path

import ray
import torch

from hbt_ray.cluster.connect import node_sizes, quiet
from hbt_ray.cluster.failures import explained
from hbt_ray.config import EvaluateConfig
from hbt_ray.evaluate import EvalReport
from hbt_ray.evaluate_model import evaluate_model


def evaluate_on_cluster(model: str, settings: EvaluateConfig, out: Path) -> list[EvalReport]:
    """`evaluate_model` as one task with every CPU of a node, or with a GPU where there is one.

    Where the driver's is the only node, the driver does it itself: it has loaded already what a task would load.

    Reports are written to `out/<benchmark>`.
    """
    gpu = max(node_sizes("GPU"), default=0) >= 1
    cpus = 1 if gpu else max(int(max(node_sizes("CPU"), default=1)), 1)
    if not gpu and len(node_sizes("CPU")) == 1:
        return _evaluate(model, settings, out, min(cpus, os.cpu_count() or 1))
    task = ray.remote(num_cpus=cpus, num_gpus=1 if gpu else 0, max_retries=2)(_evaluate)
    with explained("evaluating"):
        return ray.get(task.remote(model, settings, out, cpus))


def _evaluate(model: str, settings: EvaluateConfig, out: Path, threads: int) -> list[EvalReport]:
    quiet()
    torch.set_num_threads(threads)
    return [
        report
        for name, place in settings.benchmarks.items()
        for report in evaluate_model(model, settings.model_copy(update={"benchmarks": {name: place}}), out / name)
    ]
