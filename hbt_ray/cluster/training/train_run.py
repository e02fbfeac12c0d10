"""Training a run with several workers or in this process, whichever its settings say, with evaluations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hbt_ray.cluster.training.driver import run_training
from hbt_ray.config import replace_in
from hbt_ray.training.checkpoint import CheckpointManager, load_checkpointed_encoder
from hbt_ray.training.checkpoint_metrics import evaluated_steps, load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import ContrastiveTask, OnMetrics, ignore_metrics


def train_run(
    task: ContrastiveTask,
    store: str | Path,
    folder: RunDir,
    *,
    every: int | None = None,
    on_metrics: OnMetrics = ignore_metrics,
) -> int:
    """Train on pairs to the end: with Ray Train if `workers` > 1, else in this process.

    What `on_metrics` raises ends a training in this process. While workers train, it is logged.

    Args:
        task: what to train.
        store: folder of its token store.
        folder: of the run.
        every: optimizer steps between evaluations, with one more at the end; a checkpoint must be due at each.
            None: evaluate nothing.
        on_metrics: called with the step and metrics of each evaluation, first those that an earlier call saved.

    Returns:
        The step of the checkpoint whose weights to keep: the last one's, or with early stopping the best one's.

    Raises:
        ClusterError: the cluster cannot hold the workers, or they failed more often than allowed.
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    train = task.config.train
    if train.max_workers == 1:
        from hbt_ray.models.encoder import training_device  # takes seconds, and a driver of workers needs none of it
        from hbt_ray.training.local_runner import train_locally

        train_locally(
            task,
            store,
            folder,
            every=every,
            on_metrics=on_metrics,
            device=training_device(train.gpu),
        )
        return CheckpointManager(folder.checkpoints).final_step(train)
    if every is None:
        return run_training(task, Path(store), folder, ignore_metrics)
    return _train_and_evaluate_with_workers(task, Path(store), folder, every, on_metrics)


def _train_and_evaluate_with_workers(
    task: ContrastiveTask, store: Path, folder: RunDir, every: int, on_metrics: OnMetrics
) -> int:
    """Train with Ray Train's workers, whose checkpoints are evaluated in tasks while training continues."""
    for step, metrics in load_checkpoint_metrics(folder.checkpoint_metrics):
        on_metrics(step, metrics)

    def pass_on(step: int, metrics: dict[str, float]) -> None:
        if not all(name.startswith(("train/", "validation/")) for name in metrics):
            on_metrics(step, metrics)

    config = task.config
    config_with_eval = replace_in(config, "train.evaluate_every", every)
    last = run_training(replace(task, config=config_with_eval), store, folder, pass_on)
    if last not in evaluated_steps(folder.checkpoint_metrics):
        encoder = load_checkpointed_encoder(config, task.initial_model, folder.checkpoints, last)
        metrics = task.evaluate_encoder(encoder, config)
        save_checkpoint_metrics(folder.checkpoint_metrics, last, metrics)
        on_metrics(last, metrics)
    return last
