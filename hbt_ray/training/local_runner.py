"""Training in this process, from the newest checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbt_ray.data.token_store import TokenStore
from hbt_ray.models.vocabulary import occurring_embedding
from hbt_ray.training.base_trainer import BaseTrainer, StepSignals
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import ContrastiveTask, OnMetrics, TrainingTask, describe_step, ignore_metrics
from hbt_ray.training.train_loop import LogBuffer, run_train_loop
from hbt_ray.training.train_state import TrainState, is_finished
from hbt_ray.utils.progress import Stage, stage
from hbt_ray.utils.storage import StoragePath


def train_locally(
    task: ContrastiveTask,
    store_folder: str | Path,
    folder: RunDir,
    *,
    every: int | None = None,
    on_metrics: OnMetrics = ignore_metrics,
    device: str = "cpu",
) -> None:
    """Train on pairs to the end, or until `on_metrics` raises, evaluating checkpoints.

    Args:
        task: what to train.
        store_folder: folder of its token store.
        folder: of the run.
        every: optimizer steps between evaluations, with one more at the end; a checkpoint must be due at each.
            None: evaluate nothing.
        on_metrics: called with the step and metrics of each evaluation, first those that an earlier call saved; without
            evaluations, of each training step.
        device: to train on.

    Raises:
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    store = TokenStore.open(store_folder)
    trainer = task.build_trainer(device, store)
    checkpoints = CheckpointManager(folder.checkpoints)
    progress = checkpoints.resume(trainer)
    if every is None:
        run_remaining_steps(LocalCallbacks(task, store, trainer, checkpoints, on_metrics), progress)
        return
    callbacks = _EvaluatingCallbacks(task, store, trainer, checkpoints, on_metrics, folder.checkpoint_metrics, every)
    saved = load_checkpoint_metrics(folder.checkpoint_metrics)
    for step, metrics in saved:
        if step <= progress.step:
            on_metrics(step, metrics)
    if progress.step and callbacks.is_due(progress) and progress.step not in dict(saved):
        callbacks.evaluate(progress)
    run_remaining_steps(callbacks, progress)


def run_remaining_steps(callbacks: LocalCallbacks, progress: TrainState) -> None:
    """Train from the state's step to the last one."""
    task, store = callbacks.task, callbacks.store
    batches_per_step = task.train.gradient_accumulation
    batches = task.batches(store, range(progress.step * batches_per_step, task.train.steps * batches_per_step))
    with stage("training", task.train.steps, "steps", done=progress.step) as shown:
        shown.starts_slowly = True
        callbacks.stage = shown
        run_train_loop(callbacks.trainer, progress, batches, task.validation_batches(store), callbacks)


@dataclass
class LocalCallbacks:
    """`train_loop.TrainerCallbacks` of one process: pass metrics to a function, save and prune checkpoints."""

    task: TrainingTask[Any]
    store: TokenStore
    trainer: BaseTrainer[Any]
    checkpoints: CheckpointManager
    on_metrics: OnMetrics
    stage: Stage = field(init=False)  # shows the progress
    saved_s: float = field(init=False, default_factory=time.monotonic)  # of the last checkpoint, or of the start

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        """Pass the metrics on, with their full names."""
        self.show(metrics)
        for step in metrics.steps:
            self.on_metrics(step.step, {f"train/{name}": value for name, value in step.by_name().items()})
        if metrics.validation_loss is not None:
            self.on_metrics(progress.step, {"validation/loss": metrics.validation_loss})

    def show(self, metrics: LogBuffer) -> None:
        """Show the last step and its loss."""
        if metrics.steps:
            self.stage.move_to(metrics.steps[-1].step, f"loss {metrics.steps[-1].loss:.3f}")

    def log_skipped_step(self, progress: TrainState) -> str:
        """Return a description of the step's batches."""
        return describe_step(self.task, self.store, progress.step)

    def signals(self) -> StepSignals:
        """Request a checkpoint if the last one is older than `checkpoint_minutes`."""
        minutes = self.task.train.checkpoint_minutes
        return StepSignals(request_checkpoint=minutes is not None and time.monotonic() - self.saved_s >= 60 * minutes)

    def must_save(self, progress: TrainState) -> bool:
        """Return False: a local process gets no preemption notice."""
        return False

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        """Save a checkpoint, then delete old ones."""
        self.checkpoints.save(self.trainer, progress, metrics)
        self.after_save(progress)
        self.checkpoints.prune(self.trainer.train.checkpoints_kept, self.trainer.train.best_by)
        self.saved_s = time.monotonic()

    def after_save(self, progress: TrainState) -> None:
        """Do nothing; subclasses may evaluate the checkpoint before old ones are deleted."""


@dataclass
class _EvaluatingCallbacks(LocalCallbacks):
    """Evaluates the encoder at every `every`-th checkpointed step and at the end; passes on only these metrics."""

    task: ContrastiveTask
    checkpoint_metrics: StoragePath
    every: int
    losses: list[float] = field(default_factory=list)  # of the steps since the last evaluation

    def is_due(self, progress: TrainState) -> bool:
        """Return True if the step is evaluated."""
        return progress.step % self.every == 0 or is_finished(progress, self.task.train)

    def evaluate(self, progress: TrainState) -> None:
        """Evaluate the encoder as it is now; save and pass on its metrics and the mean training loss."""
        encoder = self.trainer.encoder
        if occurring_embedding(encoder) is None:
            metrics = self.task.evaluate_encoder(encoder, self.task.config)
        else:
            path, device = self.checkpoints.path, str(encoder.device)
            metrics = self.task.evaluate_checkpoint(self.store, path, progress.step, device)
        if self.losses:
            metrics["train/loss"] = sum(self.losses) / len(self.losses)
        self.losses = []
        save_checkpoint_metrics(self.checkpoint_metrics, progress.step, metrics)
        self.on_metrics(progress.step, metrics)

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        """Record the losses."""
        self.show(metrics)
        self.losses += [step.loss for step in metrics.steps]

    def after_save(self, progress: TrainState) -> None:
        """Evaluate the checkpoint if that is due."""
        if self.is_due(progress):
            self.evaluate(progress)
