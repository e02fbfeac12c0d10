"""The configurations that a search tries: points of its space."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hbt_ray.config import AlphaSchedule, RunConfig, build_config, set_key
from hbt_ray.search.config import SearchConfig, SearchDimension
from hbt_ray.utils.counter_rng import stable_hash64


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration: what it sets, by the settings' whole keys."""

    values: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """Short and the same wherever it is met, for folders and tables.

        >>> Point({"mix.alpha": 0.25, "train.steps": 600}).name
        'alpha=0.25,steps=600'
        """
        return ",".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in self.values.items())

    def config(self, base: RunConfig, seed: int) -> RunConfig:
        """The run of this configuration with a seed. Raises ConfigError for a value that cannot be."""
        data = base.model_dump(mode="json")
        for key, value in self.values.items():
            set_key(data, key.split("."), value)
        return build_config(data | {"seed": seed})


def with_alphas(config: RunConfig, alphas: Sequence[tuple[int, float]]) -> RunConfig:
    """A run whose alpha is held from each of some batches on, as a population's member has it."""
    schedule = AlphaSchedule(points=tuple(alphas), between="hold")
    return config.model_copy(update={"mix": config.mix.model_copy(update={"alpha_schedule": schedule})})


def rounded(value: Any) -> Any:
    """Four digits of a number that was drawn: what is tried should be what is told."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def points_of(search: SearchConfig) -> list[Candidate]:
    """Every configuration that is known before the search begins: of a grid all, of random ones those drawn.

    For tpe and nsga2, which draw theirs as they go, none; for pbt the population it begins with, evenly spread.

    Raises:
        ConfigError: a configuration cannot be.
    """
    if search.algorithm == "grid":
        axes = [[(key, value) for value in axis.values or ()] for key, axis in search.space.items()]
        points = [Candidate(dict(chosen)) for chosen in itertools.product(*axes)]
    elif search.algorithm == "random":
        points = [Candidate(_drawn(search, number)) for number in range(search.configurations)]
    elif search.algorithm == "pbt":
        points = [
            Candidate({"mix.alpha": alpha}) for alpha in _spread(search.space["mix.alpha"], search.configurations)
        ]
    else:
        points = []
    for point in points:
        point.config(search.run, search.seeds[0])
    return list({point.name: point for point in points}.values())


def _drawn(search: SearchConfig, number: int) -> dict[str, Any]:
    """The random configuration of a number: a function of the search's seed and it."""
    return {
        key: value_at(axis, float(np.random.default_rng(stable_hash64(search.seed, number, key)).random()))
        for key, axis in search.space.items()
    }


def value_at(axis: SearchDimension, share: float) -> Any:
    """What an axis has at a share of its way, 0 <= share < 1.

    >>> value_at(Axis(uniform=(0, 2)), 0.25), value_at(Axis(loguniform=(1, 100)), 0.5)
    (0.5, 10.0)
    """
    if axis.values is not None:
        return axis.values[int(share * len(axis.values))]
    if axis.integers:
        least, most = axis.integers
        return least + int(share * (most - least + 1))
    if axis.loguniform:
        least_log, most_log = (math.log(bound) for bound in axis.loguniform)
        return rounded(math.exp(least_log + share * (most_log - least_log)))
    low, high = axis.uniform or (0.0, 1.0)
    return rounded(low + share * (high - low))


def _spread(axis: SearchDimension, number: int) -> list[Any]:
    if axis.values is not None:
        return [axis.values[n % len(axis.values)] for n in range(number)]
    return [value_at(axis, (n + 0.5) / number) for n in range(number)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in text)[:40]
