"""The kinds of batches, and the probability of each at a step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hbt_ray.config import MixConfig

BatchKind = Literal["monolingual", "cross-lingual", "mixed", "one-to-k"]


def monolingual_probability(mix: MixConfig, steps: np.ndarray) -> np.ndarray:
    """Return the probability of a monolingual batch at each step: (N,) -> (N,).

    It is alpha, or the value of `alpha_schedule` at the step: held, or interpolated linearly or by half a cosine,
    between the points around the step, and constant before the first point and after the last.

    Phases are applied first.

    >>> falling = MixConfig.model_validate({"alpha_schedule": {"points": [[0, 0.9], [100, 0.1]]}})
    >>> monolingual_probability(falling, np.array([0, 50, 100, 1000])).tolist()
    [0.9, 0.5, 0.1, 0.1]
    """
    if mix.phases:
        mixes, phases = mix.constant_mixes, phase_numbers(mix, steps)
        return np.select(
            [phases == number for number in range(len(mixes))],
            [monolingual_probability(constant, steps) for _, constant in mixes],
        )
    if mix.strategy != "hybrid":
        return np.full(len(steps), 1.0 if mix.strategy == "x-x-mono" else 0.0)
    if mix.alpha_schedule is None:
        return np.full(len(steps), mix.alpha)
    points = mix.alpha_schedule.points
    point_steps, alphas = np.array([step for step, _ in points]), np.array([alpha for _, alpha in points])
    before = np.clip(np.searchsorted(point_steps, steps, side="right") - 1, 0, len(points) - 1)
    after = np.minimum(before + 1, len(points) - 1)
    fraction = np.clip((steps - point_steps[before]) / np.maximum(point_steps[after] - point_steps[before], 1), 0, 1)
    if mix.alpha_schedule.between == "hold":
        fraction = np.zeros(len(steps))
    elif mix.alpha_schedule.between == "cosine":
        fraction = (1 - np.cos(np.pi * fraction)) / 2
    probability: np.ndarray = alphas[before] + fraction * (alphas[after] - alphas[before])
    return probability


def phase_numbers(mix: MixConfig, steps: np.ndarray) -> np.ndarray:
    """Return the position of each step's phase in `mix.constant_mixes`, (N,) -> (N,)."""
    return np.searchsorted([phase.first_batch for phase in mix.phases], steps, side="right")


def batch_kinds(mix: MixConfig) -> tuple[BatchKind, ...]:
    """Return the kinds of batches that a mix draws at any step."""
    if mix.strategy == "x-x":
        return ("mixed",)
    if mix.strategy == "one-to-k":
        return ("one-to-k",)
    points = mix.alpha_schedule.points if mix.alpha_schedule else mix.constant_mixes
    steps = [step for step, _ in points]
    probability = monolingual_probability(mix, np.array(steps))
    monolingual: tuple[BatchKind, ...] = ("monolingual",) if probability.max() > 0 else ()
    cross_lingual: tuple[BatchKind, ...] = ("cross-lingual",) if probability.min() < 1 else ()
    return monolingual + cross_lingual
