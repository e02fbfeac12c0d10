"""The training loop of one rank, from where it stands to the end. What it measures goes to `report`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hbt_ray.progress import Progress, after_validation, checkpoint_is_due, is_finished, validation_is_due
from hbt_ray.records import Batch
from hbt_ray.trainer import Trainer

REPORT_EVERY = 10  # steps


@dataclass(slots=True)
class Measured:
    """What was measured since the last report."""

    steps: list[dict[str, float]] = field(default_factory=list)  # "step", "loss", "pairs_per_s", ...
    validation_loss: float | None = None


class Report(Protocol):
    """Takes what was measured; saves a checkpoint as well when one is due. Called at the same steps on all ranks."""

    def __call__(self, progress: Progress, measured: Measured, checkpoint: bool) -> None: ...


def train_to_the_end(
    trainer: Trainer,
    progress: Progress,
    batches: Iterator[Batch],
    validation_batches: Sequence[Batch],
    report: Report,
) -> Progress:
    """Trains until the last step or early stopping.

    Args:
        batches: this rank's slices of the plan's batches, from the first that `progress` has not seen.
        validation_batches: this rank's slices; empty where there is no validation.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; the weights are those of the step before.
    """
    train = trainer.train
    each = train.gradient_accumulation
    measured = Measured()
    ended_s = time.perf_counter()
    while not is_finished(progress, train):
        asked_s = time.perf_counter()
        own = [next(batches) for _ in range(each)]
        waited_s = time.perf_counter() - asked_s
        assert own[0].step == progress.step * each, "the feed left the plan's order"
        result = trainer.step(progress.step, own)
        progress = replace(progress, step=progress.step + 1)
        step_s = time.perf_counter() - ended_s  # with what reporting the steps before took
        ended_s += step_s
        measured.steps.append(
            {
                "step": progress.step,
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": result.learning_rate,
                "pairs_per_s": train.global_batch_pairs * each / step_s,
                "data_wait_share": waited_s / step_s,
            }
        )
        if validation_batches and validation_is_due(progress, train):
            measured.validation_loss = trainer.validation_loss(validation_batches)
            progress = after_validation(progress, measured.validation_loss, train)
        checkpoint = checkpoint_is_due(progress, train)
        if checkpoint or progress.step % REPORT_EVERY == 0:
            report(progress, measured, checkpoint)
            measured = Measured()
    return progress
