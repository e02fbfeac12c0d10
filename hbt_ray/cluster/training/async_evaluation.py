"""Evaluating a checkpoint in a task while training continues.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from hbt_ray.cluster.errors import failure_reason, find_hbt_error
from hbt_ray.cluster.runtime import configure_logging
from hbt_ray.cluster.training.messages import CheckpointMetrics, Notice, WorkerConfig
from hbt_ray.training.checkpoint_metrics import save_checkpoint_metrics

EVALUATION_TIMEOUT_S = 24 * 3600.0  # of the checkpoints that are evaluated together
WAITING_TASK = {"num_cpus": 0, "max_retries": -1}  # Ray's options of a task that runs `evaluate_checkpoint`


def evaluate_checkpoint(
    checkpoint: object, step: int, config: WorkerConfig, task_options: dict[str, int]
) -> dict[str, float]:
    """Evaluate a step's checkpoint in another task; store the metrics and send them to the driver.

    A failure costs a notice, not the training. Ray Train fails the training if the process dies in which it calls this
    function, so the work, which a lack of memory may end, is done in another one.

    Args:
        checkpoint: passed by Ray Train; not used.
        step: of the checkpoint in `config.checkpoints`.
        config: of the training's workers.
        task_options: Ray's, of the other task.
    """
    channel, metrics = config.channel, {}
    try:
        metrics = ray.get(ray.remote(_evaluate).options(**task_options).remote(step, config))
        message: CheckpointMetrics | Notice = CheckpointMetrics(step, metrics)
    except RayError as error:
        reason = find_hbt_error(error) or failure_reason(error)
        message = Notice(f"step {step} was not evaluated: {reason}; the run continues without its metrics")
    # Wait: once the last of these tasks has ended, the driver reads only what has arrived.
    ray.get([channel.put.remote(message), channel.put_evaluated.remote(step)])
    return metrics


def _evaluate(step: int, config: WorkerConfig) -> dict[str, float]:
    """Evaluate a step's checkpoint exactly and in this process; store the metrics."""
    from hbt_ray.data.token_store import TokenStore
    from hbt_ray.models.encoder import default_device

    configure_logging()
    store = TokenStore.open(config.store)
    metrics = config.task.evaluate_checkpoint(store, config.checkpoints, step, default_device())
    save_checkpoint_metrics(config.checkpoint_metrics, step, metrics)
    return metrics
