"""A checkpoint measured by a task while training goes on.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from hbt_ray.cluster.connect import quiet
from hbt_ray.config import RunConfig
from hbt_ray.errors import UserError
from hbt_ray.job import Job
from hbt_ray.measured import write_measurement
from hbt_ray.search.settings import DevConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def measure_checkpoint(checkpoint: Any, step: int, told: dict[str, Any]) -> dict[str, float]:
    """Measures the checkpoint of a step, exactly and in one process, and tells the driver.

    What fails here costs a notice, not the training.

    Args:
        checkpoint: Ray Train's own, of which nothing is needed.
        told: what the workers were told.
    """
    from hbt_ray.model import default_device
    from hbt_ray.store import TokenStore

    quiet()
    reports = told["reports"]
    try:
        job: Job = told["job"]
        metrics = job.measure(TokenStore.open(told["store"]), told["checkpoints"], step, default_device())
        write_measurement(told["measured"], step, metrics)
        # Waited for: the driver takes what is there when the last of these tasks has ended.
        ray.get(reports.put.remote({"step": step, "benchmarks": metrics}))
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        ray.get(reports.put.remote({"notice": f"step {step} was not measured: {reason}"}))
        return {}
    finally:
        reports.put_evaluated.remote(step)
    return metrics


def benchmark_metrics(encoder: SentenceTransformer, config: RunConfig) -> dict[str, float]:
    """An encoder's metrics on a run's benchmarks."""
    from hbt_ray.embedder import TextEmbedder
    from hbt_ray.evaluate import evaluate
    from hbt_ray.evaluate_model import load_benchmarks
    from hbt_ray.precision import uses_bf16

    bf16 = uses_bf16(config.evaluate.precision, encoder.device)
    embedder = TextEmbedder(encoder, bf16=bf16, dimensions=config.evaluate.dimensions)
    metrics: dict[str, float] = {}
    for benchmark in load_benchmarks(config.evaluate):
        metrics |= evaluate(embedder, benchmark, config.evaluate).metrics
    return metrics


def dev_set_metrics(encoder: SentenceTransformer, config: RunConfig, *, dev: DevConfig, store: str) -> dict[str, float]:
    """An encoder's metrics on what a search chooses by."""
    from hbt_ray.search.dev import dev_metrics, dev_set

    return dev_metrics(encoder, dev_set(dev, store, config), dev, config)
