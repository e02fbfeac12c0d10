"""The training loop of one rank, from where it stands to the end. What it measures goes to its `TrainerCallbacks`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hbt_ray.errors import TrainingDiverged
from hbt_ray.training.base_trainer import B, BaseTrainer
from hbt_ray.training.train_state import TrainState, after_validation, is_finished, should_checkpoint, should_validate

LOG_EVERY_S = 1.0


@dataclass(slots=True)
class LogBuffer:
    """What was measured since it was last told."""

    steps: list[dict[str, float]] = field(default_factory=list)  # "step", "loss", "gradient_norm", ...
    validation_loss: float | None = None


class TrainerCallbacks(Protocol):
    """What stands around the loop: those who follow the training, keep its checkpoints and may take its machine away.

    `save` and `must_save` are called at the same steps on all ranks.
    """

    def tell(self, progress: TrainState, measured: LogBuffer) -> None:
        """Takes what was measured."""

    def tell_skipped(self, progress: TrainState) -> str:
        """Takes note of a step whose gradient was not finite; returns what its batch was made of."""

    def wishes(self) -> tuple[bool, bool]:
        """Whether this rank wants a checkpoint, and whether it wants all to look if they must save."""

    def must_save(self, progress: TrainState) -> bool:
        """Looks, on all ranks, whether a machine is about to be taken away and nothing was saved since the notice."""

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        """Saves a checkpoint, with what was measured for it: "loss", and where it was validated "validation_loss"."""


def run_train_loop(
    trainer: BaseTrainer[B],
    progress: TrainState,
    batches: Iterator[B],
    validation_batches: Sequence[B],
    company: TrainerCallbacks,
) -> TrainState:
    """Trains until the last step or early stopping.

    Args:
        batches: this rank's slices of the plan's batches, from the first that `progress` has not seen.
        validation_batches: this rank's slices; empty where there is no validation.

    Raises:
        TrainingDiverged: more gradients were not finite than allowed; the weights are those of the step before.
    """
    train = trainer.train
    each = train.gradient_accumulation
    unit, number = trainer.units
    measured = LogBuffer()
    losses: list[float] = []  # since the last checkpoint
    ended_s = told_s = time.perf_counter()
    while not is_finished(progress, train):
        asked_s = time.perf_counter()
        own = [next(batches) for _ in range(each)]
        waited_s = time.perf_counter() - asked_s
        assert own[0].step == progress.step * each, "the feed left the plan's order"
        result = trainer.step(progress.step, own, company.wishes())
        if result.skipped:
            progress = replace(progress, steps_skipped=progress.steps_skipped + 1)
            made_of = company.tell_skipped(progress)
            if progress.steps_skipped > train.non_finite_allowed:
                raise TrainingDiverged(
                    f"the gradient of step {progress.step} is not finite, and {train.non_finite_allowed} such steps "
                    f"are allowed; lower {train.section}.learning_rate, write {train.section}.precision=fp32 or raise "
                    f"{train.section}.non_finite_allowed. It was made of: {made_of}"
                )
        progress = replace(progress, step=progress.step + 1)
        step_s = time.perf_counter() - ended_s  # with what came between this step and the one before
        ended_s += step_s
        if not result.skipped:
            losses.append(result.loss)
            measured.steps.append(
                {
                    "step": progress.step,
                    "loss": result.loss,
                    "gradient_norm": result.gradient_norm,
                    "learning_rate": result.learning_rate,
                    f"{unit}_per_s": number * each / step_s,
                    "data_wait_share": waited_s / step_s,
                }
            )
        if validation_batches and should_validate(progress, train):
            measured.validation_loss = trainer.validation_loss(validation_batches)
            progress = after_validation(progress, measured.validation_loss, train)
        wants_checkpoint, wants_look = result.wishes
        must_save = wants_look and company.must_save(progress)
        due = should_checkpoint(progress, train) or wants_checkpoint or must_save
        if due or ended_s - told_s >= LOG_EVERY_S:
            validated = {} if measured.validation_loss is None else {"validation_loss": measured.validation_loss}
            company.tell(progress, measured)
            measured, told_s = LogBuffer(), ended_s
        if due:
            loss = {"loss": sum(losses) / len(losses)} if losses else {}
            company.save(progress, loss | validated)
            losses = []
    return progress
