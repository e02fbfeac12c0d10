"""A search by branches of one training: its segments, and the mixtures that they are trained with.

A mixture is the values of the searched settings of `mix`. Each is a function of quantiles, numbers between 0 and 1 (see
`SearchDimension.value_at`), so a mixture is a point of a cube, and moves in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hbt_ray.config.base import Settings
from hbt_ray.utils.counter_rng import stable_hash64

if TYPE_CHECKING:
    from hbt_ray.search.config import SearchConfig

MOVE = 1.0  # standard deviation of a move in the logits of quantiles
_EDGE = 1e-4  # distance that quantiles keep from 0 and 1


@dataclass(frozen=True, slots=True)
class Segment:
    """The steps [first, until) of a training, with a number of branches: different mixtures from one checkpoint."""

    first: int
    until: int
    branches: int


def segments(search: SearchConfig) -> list[Segment]:
    """Divide the steps of a training: after each `branch_every` steps, branches of `measure_every` steps.

    Between them, the best branch is trained further.
    """
    steps, distance = search.run.train.steps, search.branch_every or search.every
    found = []
    for first in range(0, steps, distance):
        until, following = min(first + search.every, steps), min(first + distance, steps)
        found.append(Segment(first, until, search.configurations))
        if until < following:
            found.append(Segment(until, following, 1))
    return found


def branch_quantiles(search: SearchConfig, number: int, branch: int, parent: Sequence[float] | None) -> list[float]:
    """Return the quantiles of a branch's mixture. They depend only on `seed` and the arguments.

    1. Without a parent, branch 0 has the middle of the space, and others are drawn uniformly.
    2. With one, branch 0 keeps the parent's mixture. Others move from it by normal steps in the logits.

    Args:
        search: its settings.
        number: of the segment.
        branch: number of the branch.
        parent: quantiles of the branch that is continued; None: the training begins.
    """
    count = _count_quantiles(search)
    generator = np.random.default_rng(stable_hash64(search.seed, "branch", number, branch))
    if branch == 0:
        return [0.5] * count if parent is None else list(parent)
    if parent is None:
        quantiles = generator.random(count)
    else:
        odds = np.asarray(parent) / (1 - np.asarray(parent)) * np.exp(MOVE * generator.standard_normal(count))
        quantiles = odds / (1 + odds)
    clipped: list[float] = np.clip(quantiles, _EDGE, 1 - _EDGE).tolist()
    return clipped


def values_at(search: SearchConfig, quantiles: Sequence[float]) -> Settings:
    """Return the searched settings at quantiles, those of all settings in the order of `space`."""
    remaining = iter(quantiles)
    return {
        key: dimension.value_at(*(next(remaining) for _ in range(dimension.num_quantiles)))
        for key, dimension in search.space.items()
    }


def middle_of(search: SearchConfig) -> Settings:
    """Return the searched settings at the middle of the space."""
    return values_at(search, [0.5] * _count_quantiles(search))


def _count_quantiles(search: SearchConfig) -> int:
    return sum(dimension.num_quantiles for dimension in search.space.values())
