"""The progress of a training, and what is due at a step: pure functions, so that every rank decides the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from hbt_ray.config import LoopConfig


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a training is resumed from, with its weights and the optimizer's moments."""

    step: int = 0  # number of finished optimizer steps
    last_validation_loss: float | None = None
    best_validation_loss: float | None = None
    validations_without_gain: int = 0
    steps_skipped: int = 0  # because their gradient was not finite


def is_finished(progress: TrainState, train: LoopConfig) -> bool:
    """Return True after the last step, or when early stopping's patience is exhausted."""
    stopping = train.early_stopping
    stops_early = stopping is not None and progress.validations_without_gain >= stopping.patience
    return stops_early or progress.step >= train.steps


def should_validate(progress: TrainState, train: LoopConfig) -> bool:
    """Return True every `validation_every` steps and at the last step, if there is validation."""
    if not train.validation_every:
        return False
    return progress.step % train.validation_every == 0 or progress.step == train.steps


def should_evaluate(progress: TrainState, train: LoopConfig) -> bool:
    """Return True if the checkpoint of this step is evaluated while training continues.

    Not at the end of training, after which the exported model is evaluated in any case.
    """
    return train.evaluate_every > 0 and progress.step % train.evaluate_every == 0 and not is_finished(progress, train)


def steps_to_evaluate(saved: Iterable[int], evaluated: Collection[int], train: LoopConfig) -> set[int]:
    """Return the steps of saved checkpoints whose evaluation was due and that have not been evaluated."""
    due = {step for step in saved if should_evaluate(TrainState(step=step), train)}
    return due.difference(evaluated)


def should_checkpoint(progress: TrainState, train: LoopConfig) -> bool:
    """Return True every `checkpoint_every` steps, after a validation, for an evaluation, and at the end."""
    return (
        progress.step % train.checkpoint_every == 0
        or should_validate(progress, train)
        or should_evaluate(progress, train)
        or is_finished(progress, train)
    )


def after_validation(progress: TrainState, loss: float, train: LoopConfig) -> TrainState:
    """Return the progress after a validation.

    A loss is a gain if it is lower than the best one by more than early stopping's `min_change`. NaN is not.
    """
    min_gain = train.early_stopping.min_change if train.early_stopping else 0.0
    best = progress.best_validation_loss
    gained = not math.isnan(loss) and (best is None or loss < best - min_gain)
    return replace(
        progress,
        last_validation_loss=loss,
        best_validation_loss=loss if gained else best,
        validations_without_gain=0 if gained else progress.validations_without_gain + 1,
    )
