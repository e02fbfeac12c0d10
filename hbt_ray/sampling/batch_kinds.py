"""The kinds of batches, and how probable each is at a step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hbt_ray.config import MixConfig

BatchKind = Literal["monolingual", "cross-lingual", "mixed", "one-to-k"]


def monolingual_probability(mix: MixConfig, steps: np.ndarray) -> np.ndarray:
    """The probability of a monolingual batch at each step: (N,) -> (N,).

    >>> falling = MixConfig.model_validate({"alpha_schedule": {"points": [[0, 0.9], [100, 0.1]]}})
    >>> alphas(falling, np.array([0, 50, 100, 1000])).tolist()
    [0.9, 0.5, 0.1, 0.1]
    """
    if mix.strategy != "hybrid":
        return np.full(len(steps), 1.0 if mix.strategy == "x-x-mono" else 0.0)
    if mix.alpha_schedule is None:
        return np.full(len(steps), mix.alpha)
    points = mix.alpha_schedule.points
    at, values = np.array([batch for batch, _ in points]), np.array([alpha for _, alpha in points])
    before = np.clip(np.searchsorted(at, steps, side="right") - 1, 0, len(at) - 1)
    behind = np.minimum(before + 1, len(at) - 1)
    way = np.clip((steps - at[before]) / np.maximum(at[behind] - at[before], 1), 0, 1)
    if mix.alpha_schedule.between == "hold":
        way = np.zeros(len(steps))
    elif mix.alpha_schedule.between == "cosine":
        way = (1 - np.cos(np.pi * way)) / 2
    found: np.ndarray = values[before] + way * (values[behind] - values[before])
    return found


def kinds_of(mix: MixConfig) -> tuple[BatchKind, ...]:
    """The kinds of batches that a mix has at any time."""
    if mix.strategy == "x-x":
        return ("mixed",)
    if mix.strategy == "one-to-k":
        return ("one-to-k",)
    steps = [batch for batch, _ in mix.alpha_schedule.points] if mix.alpha_schedule else [0]
    shares = monolingual_probability(mix, np.array(steps))
    monolingual: tuple[BatchKind, ...] = ("monolingual",) if shares.max() > 0 else ()
    cross_lingual: tuple[BatchKind, ...] = ("cross-lingual",) if shares.min() < 1 else ()
    return monolingual + cross_lingual
