"""A checkpoint measured by a task while training goes on.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from hbt_ray.cluster.runtime import configure_logging
from hbt_ray.config import RunConfig
from hbt_ray.errors import UserError
from hbt_ray.search.config import DevConfig
from hbt_ray.training.checkpoint_metrics import save_checkpoint_metrics
from hbt_ray.training.task import TrainingTask

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def measure_checkpoint(checkpoint: Any, step: int, told: dict[str, Any]) -> dict[str, float]:
    """Measures the checkpoint of a step, exactly and in one process, and tells the driver.

    What fails here costs a notice, not the training.

    Args:
        checkpoint: Ray Train's own, of which nothing is needed.
        told: what the workers were told.
    """
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.models.encoder import default_device

    configure_logging()
    reports = told["reports"]
    try:
        job: TrainingTask = told["job"]
        metrics = job.measure(TokenStore.open(told["store"]), told["checkpoints"], step, default_device())
        save_checkpoint_metrics(told["measured"], step, metrics)
        # Waited for: the driver takes what is there when the last of these tasks has ended.
        ray.get(reports.put.remote({"step": step, "benchmarks": metrics}))
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        ray.get(reports.put.remote({"notice": f"step {step} was not measured: {reason}"}))
        return {}
    finally:
        reports.put_evaluated.remote(step)
    return metrics


def dev_set_metrics(encoder: SentenceTransformer, config: RunConfig, *, dev: DevConfig, store: str) -> dict[str, float]:
    """An encoder's metrics on what a search chooses by."""
    from hbt_ray.search.dev_set import dev_metrics, dev_set

    return dev_metrics(encoder, dev_set(dev, store, config), dev, config)
