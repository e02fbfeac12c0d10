"""Evaluating a checkpoint in a task while training continues.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

import ray

from hbt_ray.cluster.runtime import configure_logging
from hbt_ray.cluster.training.messages import CheckpointMetrics, Notice, WorkerConfig
from hbt_ray.errors import HbtError
from hbt_ray.training.checkpoint_metrics import save_checkpoint_metrics

EVALUATION_TIMEOUT_S = 24 * 3600.0  # of the checkpoints that are evaluated together


def evaluate_checkpoint(checkpoint: object, step: int, config: WorkerConfig) -> dict[str, float]:
    """Evaluate a step's checkpoint exactly and in one process; store the metrics and send them to the driver.

    A failure costs a notice, not the training.

    Args:
        checkpoint: passed by Ray Train; not used.
        step: of the checkpoint in `config.checkpoints`.
        config: of the training's workers.
    """
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.models.encoder import default_device

    configure_logging()
    channel = config.channel
    try:
        store = TokenStore.open(config.store)
        metrics = config.task.evaluate_checkpoint(store, config.checkpoints, step, default_device())
        save_checkpoint_metrics(config.checkpoint_metrics, step, metrics)
        # Wait: once the last of these tasks has ended, the driver reads only what has arrived.
        ray.get(channel.put.remote(CheckpointMetrics(step, metrics)))
    except Exception as error:
        reason = str(error) if isinstance(error, HbtError) else f"{type(error).__name__}: {error}"
        ray.get(
            channel.put.remote(
                Notice(f"step {step} was not evaluated: {reason}; the run continues without its metrics")
            )
        )
        return {}
    finally:
        channel.put_evaluated.remote(step)
    return metrics
