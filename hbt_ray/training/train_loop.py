"""The training loop of one rank. Metrics and checkpoints go to its `TrainerCallbacks`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hbt_ray.errors import TrainingDiverged
from hbt_ray.training.base_trainer import BaseTrainer, StepSignals
from hbt_ray.training.task import BatchT
from hbt_ray.training.train_state import TrainState, after_validation, is_finished, should_checkpoint, should_validate

LOG_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one optimizer step."""

    step: int  # counted from 1
    loss: float
    gradient_norm: float  # before clipping
    learning_rate: float
    unit: str  # in which speed is counted: "pairs" or "tokens"
    units_per_s: float
    data_wait_share: float  # fraction of the step's time spent waiting for data

    def by_name(self) -> dict[str, float]:
        """Return the metrics by the names under which they are logged, without the step."""
        return {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            f"{self.unit}_per_s": self.units_per_s,
            "data_wait_share": self.data_wait_share,
        }


@dataclass(slots=True)
class LogBuffer:
    """The metrics that have not been logged yet."""

    steps: list[StepMetrics] = field(default_factory=list)
    validation_loss: float | None = None


class TrainerCallbacks(Protocol):
    """Callbacks of the training loop: logging, checkpoints, preemption.

    `save` and `must_save` are called at the same steps on all ranks.
    """

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        """Log the metrics since the last call."""

    def log_skipped_step(self, progress: TrainState) -> str:
        """Report a step whose gradient was not finite; return a description of its batches."""

    def signals(self) -> StepSignals:
        """Return this rank's flags for the coming step."""

    def must_save(self, progress: TrainState) -> bool:
        """Return whether a node is about to be preempted and no checkpoint was saved since the notice."""

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        """Save a checkpoint with its metrics: "loss", and "validation_loss" if the step was validated."""


def run_train_loop(
    trainer: BaseTrainer[BatchT],
    progress: TrainState,
    batches: Iterator[BatchT],
    validation_batches: Sequence[BatchT],
    callbacks: TrainerCallbacks,
) -> TrainState:
    """Train until the last step or early stopping.

    In each iteration:

    1. Take the step's batches, and do the optimizer step.
    2. Count a step that was skipped because its gradient is not finite.
    3. Validate if it is due.
    4. Log the metrics if `LOG_EVERY_S` seconds have passed or a checkpoint is due.
    5. Save a checkpoint if it is due, or requested by any rank.

    Args:
        trainer: of this rank.
        progress: from which to start.
        batches: this rank's slices of the sampler's batches, beginning with the first that `progress` has not seen.
        validation_batches: this rank's slices; empty if there is no validation.
        callbacks: of this rank.

    Returns:
        The progress at the end.

    Raises:
        TrainingDiverged: more gradients were not finite than `non_finite_allowed`.
    """
    train = trainer.train
    batches_per_step = train.gradient_accumulation
    unit, units_per_batch = trainer.units
    unlogged = LogBuffer()
    losses: list[float] = []  # since the last checkpoint
    ended_s = logged_s = time.perf_counter()
    while not is_finished(progress, train):
        requested_s = time.perf_counter()
        rank_batches = [next(batches) for _ in range(batches_per_step)]
        waited_s = time.perf_counter() - requested_s
        assert rank_batches[0].step == progress.step * batches_per_step, "the batches are not in the sampler's order"
        result = trainer.step(progress.step, rank_batches, callbacks.signals())
        if result.skipped:
            progress = replace(progress, steps_skipped=progress.steps_skipped + 1)
            batches_description = callbacks.log_skipped_step(progress)
            if progress.steps_skipped > train.non_finite_allowed:
                raise TrainingDiverged(
                    f"the gradient of step {progress.step} is not finite, and {train.non_finite_allowed} such steps "
                    f"are allowed; lower {train.section}.learning_rate, write {train.section}.precision=fp32 or raise "
                    f"{train.section}.non_finite_allowed. Its batches: {batches_description}"
                )
        progress = replace(progress, step=progress.step + 1)
        step_s = time.perf_counter() - ended_s  # since the end of the step before, so with logging and saving
        ended_s += step_s
        if not result.skipped:
            losses.append(result.loss)
            unlogged.steps.append(
                StepMetrics(
                    step=progress.step,
                    loss=result.loss,
                    gradient_norm=result.gradient_norm,
                    learning_rate=result.learning_rate,
                    unit=unit,
                    units_per_s=units_per_batch * batches_per_step / step_s,
                    data_wait_share=waited_s / step_s,
                )
            )
        if validation_batches and should_validate(progress, train):
            unlogged.validation_loss = trainer.validation_loss(validation_batches)
            progress = after_validation(progress, unlogged.validation_loss, train)
        signals = result.any_rank_signals
        must_save = signals.check_preemption and callbacks.must_save(progress)
        due = should_checkpoint(progress, train) or signals.request_checkpoint or must_save
        if due or ended_s - logged_s >= LOG_EVERY_S:
            validated = {} if unlogged.validation_loss is None else {"validation_loss": unlogged.validation_loss}
            callbacks.log(progress, unlogged)
            unlogged, logged_s = LogBuffer(), ended_s
        if due:
            loss = {"loss": sum(losses) / len(losses)} if losses else {}
            callbacks.save(progress, loss | validated)
            losses = []
    return progress
