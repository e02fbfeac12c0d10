"""A training in this process, from wherever it was left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_ray.data.token_store import TokenStore
from hbt_ray.training.base_trainer import NO_SIGNALS, BaseTrainer, StepSignals
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import ContrastiveTask, TrainingTask, describe_step
from hbt_ray.training.train_loop import LogBuffer, run_train_loop
from hbt_ray.training.train_state import TrainState, is_finished
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

Report = Callable[[int, dict[str, float]], None]  # takes the step and what was measured there


def ignore_metrics(step: int, metrics: dict[str, float]) -> None:
    """The report of what nobody listens to."""


def train_locally(
    job: ContrastiveTask,
    store_folder: str | Path,
    folder: RunDir,
    *,
    every: int | None = None,
    report: Report = ignore_metrics,
    device: str = "cpu",
    replay_saved_metrics: bool = True,
) -> None:
    """Trains on pairs to the end, or to where `report` ends it, measuring as it goes.

    Args:
        every: optimizer steps between measurements, of which one is at the end too; a checkpoint must be due at each.
            None: nothing is measured.
        report: takes the step and what was measured there.
        replay_saved_metrics: report first what was measured before, so that whoever listens knows all of it.

    Raises:
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    store = TokenStore.open(store_folder)
    trainer = job.build_trainer(device)
    checkpoints = CheckpointManager(folder.checkpoints)
    progress = checkpoints.load_newest(trainer)[0] or TrainState()
    callbacks = _EvaluatingCallbacks(job, store, trainer, checkpoints, report, measured=folder.measured, every=every)
    known = load_checkpoint_metrics(folder.measured)
    for step, metrics in known:
        if replay_saved_metrics and step <= progress.step:
            report(step, metrics)
    if progress.step and callbacks.is_due(progress) and progress.step not in dict(known):
        callbacks.measure(progress)
    each = job.train.gradient_accumulation
    batches = job.batches(store, range(progress.step * each, job.train.steps * each))
    run_train_loop(trainer, progress, batches, job.validation_batches(store), callbacks)


class LocalCallbacks:
    """`loop.TrainerCallbacks` of one process, which keeps checkpoints and reports what is measured."""

    def __init__(
        self,
        job: TrainingTask,
        store: TokenStore,
        trainer: BaseTrainer[Any],
        checkpoints: CheckpointManager,
        report: Report,
    ) -> None:
        self.job = job
        self.store = store
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.report = report

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        for step in metrics.steps:
            self.report(step.step, {f"train/{name}": value for name, value in step.by_name().items()})
        if metrics.validation_loss is not None:
            self.report(progress.step, {"validation/loss": metrics.validation_loss})

    def log_skipped_step(self, progress: TrainState) -> str:
        return describe_step(self.job, self.store, progress.step)

    def signals(self) -> StepSignals:
        return NO_SIGNALS

    def must_save(self, progress: TrainState) -> bool:
        return False

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        self.checkpoints.save(self.trainer, progress, metrics)
        self.saved(progress)
        self.checkpoints.prune(self.trainer.train.checkpoints_kept, self.trainer.train.best_by)

    def saved(self, progress: TrainState) -> None:
        """What is done with a checkpoint before others are deleted."""


class _EvaluatingCallbacks(LocalCallbacks):
    """Measures a training on pairs as its checkpoints are saved, and reports that alone."""

    job: ContrastiveTask
    trainer: ContrastiveTrainer

    def __init__(self, *around: Any, measured: StoragePath, every: int | None) -> None:
        super().__init__(*around)
        self.measured = measured
        self.every = every
        self._losses: list[float] = []  # since the last measurement

    def is_due(self, progress: TrainState) -> bool:
        if self.every is None:
            return False
        return progress.step % self.every == 0 or is_finished(progress, self.job.train)

    def measure(self, progress: TrainState) -> None:
        metrics = self.job.measure_encoder(self.trainer.encoder, self.job.config)
        if self._losses:
            metrics["train/loss"] = sum(self._losses) / len(self._losses)
        self._losses = []
        save_checkpoint_metrics(self.measured, progress.step, metrics)
        self.report(progress.step, metrics)

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        self._losses += [step.loss for step in metrics.steps]

    def saved(self, progress: TrainState) -> None:
        if self.is_due(progress):
            self.measure(progress)
