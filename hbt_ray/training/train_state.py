"""How far a training has come, and what is due next. Pure, so that every rank decides the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from hbt_ray.config import LoopConfig


@dataclass(frozen=True, slots=True)
class TrainState:
    """Together with weights and moments, all there is to go on from."""

    step: int = 0  # optimizer steps done
    last_validation_loss: float | None = None
    best_validation_loss: float | None = None
    validations_without_gain: int = 0
    steps_skipped: int = 0  # whose gradient was not finite


def is_finished(progress: TrainState, train: LoopConfig) -> bool:
    """Whether the last step was done, or early stopping has lost its patience."""
    impatient = train.early_stopping is not None and progress.validations_without_gain >= train.early_stopping.patience
    return impatient or progress.step >= train.steps


def should_validate(progress: TrainState, train: LoopConfig) -> bool:
    if not train.validation_every:
        return False
    return progress.step % train.validation_every == 0 or progress.step == train.steps


def should_evaluate(progress: TrainState, train: LoopConfig) -> bool:
    """Whether the benchmarks are measured beside the training; at its end they are in any case."""
    return train.evaluate_every > 0 and progress.step % train.evaluate_every == 0 and not is_finished(progress, train)


def steps_to_evaluate(saved: Iterable[int], evaluated: Collection[int], train: LoopConfig) -> set[int]:
    """Steps of saved checkpoints that were due for an evaluation and have not had it."""
    due = {step for step in saved if should_evaluate(TrainState(step=step), train)}
    return due.difference(evaluated)


def should_checkpoint(progress: TrainState, train: LoopConfig) -> bool:
    """After every `checkpoint_every` steps, every validation, for an evaluation, and at the end."""
    return (
        progress.step % train.checkpoint_every == 0
        or should_validate(progress, train)
        or should_evaluate(progress, train)
        or is_finished(progress, train)
    )


def after_validation(progress: TrainState, loss: float, train: LoopConfig) -> TrainState:
    """The progress with a validation's loss, compared with the best before it."""
    least_gain = train.early_stopping.min_change if train.early_stopping else 0.0
    best = progress.best_validation_loss
    gained = best is None or loss < best - least_gain
    return replace(
        progress,
        last_validation_loss=loss,
        best_validation_loss=loss if gained else best,
        validations_without_gain=0 if gained else progress.validations_without_gain + 1,
    )
