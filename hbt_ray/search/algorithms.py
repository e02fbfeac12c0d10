"""The search algorithms, as far as they need no Ray: which settings they accept, and which candidates they try.

`hbt_ray/cluster/search/algorithms` runs them with Ray Tune. To add one, see README.md.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from hbt_ray.config.mix import PHASED
from hbt_ray.search.branching import segments
from hbt_ray.search.candidates import Candidate
from hbt_ray.utils.counter_rng import stable_hash64

if TYPE_CHECKING:
    from hbt_ray.search.config import SearchConfig

# Settings of which every value needs a token store or an initial encoder. These are made before the first trial.
NEED_PREPARATION = ("corpora", "languages", "prepare.", "text.", "model.")


class Algorithm(ABC):
    """A way to choose candidates. Instances have no state."""

    needs_intermediate_metrics: ClassVar[bool] = False  # compares trials while they train: needs `measure_every`
    changes_values_during_training: ClassVar[bool] = False  # so a trial has no single value of a searched setting

    def validate(self, search: SearchConfig) -> None:  # noqa: B027, any search will do
        """Raise ValueError if the algorithm cannot search what is configured."""

    @abstractmethod
    def candidates(self, search: SearchConfig) -> list[Candidate]:
        """Return the candidates that are known before the first trial; none if each depends on finished trials."""

    def num_trials(self, search: SearchConfig) -> int:
        """Return the number of trials of a whole search."""
        return (len(list_candidates(search)) or search.configurations) * len(search.seeds)


class ListedAlgorithm(Algorithm):
    """All candidates are known before the first trial; each is trained with every seed."""


class Grid(ListedAlgorithm):
    """Every combination of the listed values."""

    def validate(self, search: SearchConfig) -> None:
        key = next((key for key, dimension in search.space.items() if dimension.values is None), None)
        if key is not None:
            raise ValueError(f"a grid needs values for {key}; write a list of them, or algorithm: random")

    def candidates(self, search: SearchConfig) -> list[Candidate]:
        choices = [[(key, value) for value in dimension.values or ()] for key, dimension in search.space.items()]
        return [Candidate(dict(chosen)) for chosen in itertools.product(*choices)]


class RandomSearch(ListedAlgorithm):
    """`configurations` independent draws; candidate n depends only on `seed` and n."""

    def candidates(self, search: SearchConfig) -> list[Candidate]:
        return [
            Candidate(
                {key: dimension.draw(stable_hash64(search.seed, n, key)) for key, dimension in search.space.items()}
            )
            for n in range(search.configurations)
        ]


class TPE(Algorithm):
    """Tree-structured Parzen Estimator, which maximizes the weighted score (Bergstra et al. 2011)."""

    def validate(self, search: SearchConfig) -> None:
        key = next((key for key in search.space if key.startswith(NEED_PREPARATION)), None)
        if key is not None:
            raise ValueError(f"{key} needs a store or encoder of its own; search it with algorithm: grid or random")

    def candidates(self, search: SearchConfig) -> list[Candidate]:
        return []


class Branch(Algorithm):
    """Branches of one training with different mixtures, of which the best is continued: a schedule of mixtures."""

    needs_intermediate_metrics = True
    changes_values_during_training = True

    def validate(self, search: SearchConfig) -> None:
        keys = [f"mix.{name}" for name in PHASED]
        other = next((key for key in search.space if key not in keys), None)
        if other is not None:
            raise ValueError(f"branch finds a schedule of {', '.join(keys)}; leave {other} out of space")
        if search.run.mix.phases:
            raise ValueError("branch finds the phases of the mix; leave mix.phases out of run")
        if search.run.train.max_workers > 1:
            raise ValueError("branch trains each branch in one process; write run.train.workers=1")
        if search.stopping != "none" or len(search.seeds) > 1:
            raise ValueError("branch ends its branches itself, with one seed; write one seed and stopping: none")
        if search.branch_every is not None and search.branch_every < search.measure_every:
            raise ValueError(
                f"branches of measure_every={search.measure_every} steps do not fit in branch_every="
                f"{search.branch_every}; write branch_every={search.measure_every} or more"
            )

    def candidates(self, search: SearchConfig) -> list[Candidate]:
        return []

    def num_trials(self, search: SearchConfig) -> int:
        return sum(segment.branches for segment in segments(search))


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {"grid": Grid(), "random": RandomSearch(), "tpe": TPE(), "branch": Branch()}
)
REMOVED: Mapping[str, str] = MappingProxyType(
    {
        "nsga2": "algorithm: random marks the Pareto front too",
        "pbt": "algorithm: branch finds a schedule of alpha",
        "median": "stopping: asha stops trials early",
    }
)


def list_candidates(search: SearchConfig) -> list[Candidate]:
    """Return the distinct candidates that are known before the first trial; see `Algorithm.candidates`.

    Raises:
        ConfigError: a candidate has a value that is out of range.
    """
    candidates = ALGORITHMS[search.algorithm].candidates(search)
    for candidate in candidates:
        candidate.config(search.run, search.seeds[0])
    # Values of one name are equal: `SearchConfig` has checked them.
    return list({candidate.name: candidate for candidate in candidates}.values())
