"""The learning rate as a pure function of the optimizer step.

It has no state, so that a checkpoint needs to store nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hbt_ray.config import LoopConfig

# `train.schedule` -> factor of the peak rate after a fraction of the steps that follow the warm-up
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda fraction: 1.0,
    "linear": lambda fraction: 1 - fraction,
    "cosine": lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
}


def learning_rate(step: int, train: LoopConfig) -> float:
    """Return the learning rate of an optimizer step.

    1. In the first `warmup_share * steps` steps the rate grows linearly to `learning_rate`.
    2. In the remaining steps it follows `schedule`; `linear` and `cosine` fall to 0 at `steps`.

    Args:
        step: optimizer step, counted from 0.
        train: settings of the training.
    """
    warmup_steps = round(train.warmup_share * train.steps)
    if step < warmup_steps:
        return train.learning_rate * (step + 1) / warmup_steps
    fraction = (step - warmup_steps) / max(train.steps - warmup_steps, 1)
    return train.learning_rate * SCHEDULES[train.schedule](fraction)
