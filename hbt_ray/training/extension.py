"""A run that is extended: more steps than it was begun with, where its finished steps are those of the longer run."""

from __future__ import annotations

from hbt_ray.config import LoopConfig
from hbt_ray.training.lr_schedule import learning_rate

SETTINGS = ("steps", "warmup_share")  # that may change, if the learning rates of the finished steps do not


def extension_fault(before: LoopConfig, now: LoopConfig) -> str | None:
    """Return why a run cannot be continued to more steps with the result of a run of that length; None if it can.

    Batches and dropout depend on the seed and the step only. The learning rates of the steps until now must be equal,
    and with early stopping so must the validations.

    Args:
        before: settings of the run, which may have ended.
        now: the same with more steps.
    """
    unequal = next((n for n in range(before.steps) if learning_rate(n, before) != learning_rate(n, now)), None)
    if unequal is not None:
        warmup_steps = round(before.warmup_share * before.steps)
        if unequal < warmup_steps or now.schedule == "constant":
            share = share_of(warmup_steps, now.steps)
            return f"its warm-up took {warmup_steps} steps; write {now.section}.warmup_share={share} for as many"
        return f"the learning rates of {now.section}.schedule={now.schedule} depend on the number of steps"
    if before.early_stopping and before.steps % before.validation_every:
        return f"early stopping counted the validation after step {before.steps}, which a longer run does not have"
    return None


def share_of(part: int, whole: int) -> str:
    """Return the shortest decimal fraction of a whole number that rounds to a part of it.

    >>> share_of(60, 1200), share_of(1, 3)
    ('0.05', '0.3')
    """
    candidates = (f"{part / whole:.{digits}g}" for digits in range(1, 18))
    return next(share for share in candidates if round(float(share) * whole) == part)
