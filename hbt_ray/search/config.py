"""The settings of a search: a run, the settings of it to vary, and the objectives to choose by."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from hbt_ray.config import ConfigSection, RunConfig, build, full_key, load_with_nested_run
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.evaluation import validation_benchmark
from hbt_ray.evaluation.language_gap import GAP_METRICS
from hbt_ray.evaluation.metrics import GAP, METRICS
from hbt_ray.search.algorithms import ALGORITHMS, REMOVED
from hbt_ray.search.candidates import round_drawn, shares_of, short_text
from hbt_ray.utils.file_names import check_distinct

if TYPE_CHECKING:
    AlgorithmName = str
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]

OBJECTIVES = ("mono/map", "cross/map", "multi/map", "multi/rank_distance")
_NOT_OF_TRAINING = ("name", "storage", "evaluate", "tracking")  # sections of a run


class SearchDimension(ConfigSection):
    """The values of one setting: a list, or exactly one of these."""

    values: tuple[Any, ...] | None = None
    """All of them in a grid; one is drawn by other algorithms."""
    uniform: tuple[float, float] | None = None
    """[min, max]"""
    loguniform: tuple[float, float] | None = None
    """[min, max], uniform in the logarithm"""
    integers: tuple[int, int] | None = None
    """[min, max], both included"""
    simplex: tuple[str, ...] | None = Field(None, min_length=2)
    """Names, such as languages: shares of them that sum to 1, drawn from a Dirichlet distribution."""
    concentration: float | None = Field(None, gt=0)
    """Parameter of that distribution: 1, the default, makes all shares equally likely, more prefers equal shares."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_list(cls, data: object) -> object:
        return {"values": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _check(self) -> SearchDimension:
        kinds = [name for name in type(self).model_fields if name != "concentration"]
        if sum(getattr(self, name) is not None for name in kinds) != 1:
            raise ValueError(
                "write a list of values, or one of uniform, loguniform and integers as [min, max], or a simplex of "
                "names"
            )
        if self.concentration is not None and self.simplex is None:
            raise ValueError("concentration is of a simplex; leave it out")
        if self.simplex is not None and len(set(self.simplex)) < len(self.simplex):
            raise ValueError(f"simplex {list(self.simplex)} has a name twice")
        if self.values is not None and not self.values:
            raise ValueError("name at least one value")
        if self.bounds and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"{list(self.bounds)} must be [min, max]")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform {list(self.loguniform)} needs bounds above 0")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Min and max of a dimension that is not a list."""
        return self.uniform or self.loguniform or self.integers

    @property
    def num_quantiles(self) -> int:
        """The number of uniform draws that a value is a function of."""
        return len(self.simplex or " ")

    def value_at(self, *quantiles: float) -> object:
        """Return the value at quantiles, each at least 0 and below 1.

        >>> SearchDimension(uniform=(0, 2)).value_at(0.25), SearchDimension(loguniform=(1, 100)).value_at(0.5)
        (0.5, 10.0)
        >>> SearchDimension(simplex=("de", "en")).value_at(0.9, 0.9)
        {'de': 0.5, 'en': 0.5}
        """
        if self.simplex:
            from scipy.special import gammaincinv  # slow to load

            # The shares of gamma variates have Dirichlet's distribution.
            gammas = gammaincinv(self.concentration or 1.0, quantiles)
            return shares_of(dict(zip(self.simplex, gammas.tolist(), strict=True)))
        [quantile] = quantiles
        if self.values is not None:
            return self.values[int(quantile * len(self.values))]
        if self.integers:
            low, high = self.integers
            return low + int(quantile * (high - low + 1))
        if self.loguniform:
            low_log, high_log = (math.log(bound) for bound in self.loguniform)
            return round_drawn(math.exp(low_log + quantile * (high_log - low_log)))
        assert self.uniform
        low_end, high_end = self.uniform
        return round_drawn(low_end + quantile * (high_end - low_end))

    def draw(self, key: int) -> object:
        """Return the value that a key draws."""
        return self.value_at(*np.random.default_rng(key).random(self.num_quantiles).tolist())


class DevConfig(ConfigSection):
    """The data by which candidates are chosen; results are reported on other data."""

    benchmarks: dict[str, str | None] = Field({}, max_length=1)
    """Name -> folder of a benchmark. Empty: the held-out items of the corpora."""
    items: int = Field(200, ge=2)
    """Held-out items of each source."""

    @model_validator(mode="after")
    def _check(self) -> DevConfig:
        if self.benchmarks and self.items != type(self).model_fields["items"].default:
            raise ValueError("items has no effect with benchmarks; leave one of them out")
        return self


class SearchSettings(ConfigSection):
    """The settings of a search without its run."""

    space: dict[str, SearchDimension] = Field(min_length=1)
    """Setting -> its values. Keys may be shortened, as in overrides."""
    algorithm: AlgorithmName = "grid"
    """See the table of algorithms."""
    configurations: int = Field(16, ge=2)
    """Candidates that `random` and `tpe` try; `branch`: branches at a time."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Each candidate is trained with every seed."""
    seed: int = Field(0, ge=0)
    """Seed of the algorithm's draws."""
    stopping: Literal["none", "asha"] = "none"
    """Stop trials early: by successive halving."""
    measure_every: int = Field(0, ge=0)
    """Optimizer steps between evaluations on the dev set; 0: only at the end. `branch`: those of a branch."""
    branch_every: int | None = Field(None, ge=1)
    """`branch`: optimizer steps from one branching to the next. None: those of a branch."""
    grace_steps: int | None = Field(None, ge=1)
    """Steps before which no trial is stopped. None: those of the first evaluation."""
    keep_share: float = Field(0.5, gt=0, lt=1)
    """`asha`: fraction of the trials that continue at each rung."""
    objectives: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(OBJECTIVES, 1.0), min_length=1)
    """Metrics on the dev set -> weights of the choice."""
    dev: DevConfig = DevConfig()
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time. None: as many as the cluster can hold."""
    max_failures: int = Field(1, ge=0)
    """Restarts of a failed trial."""
    register_as: str | None = None
    """Name in MLflow's Model Registry. None: the run's name."""

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: dict[str, float]) -> dict[str, float]:
        known = [f"{setting}/{metric.name}" for metric in METRICS.values() for setting in metric.settings]
        known += [f"{GAP}/{name}" for name in GAP_METRICS]
        for objective in objectives:
            if "/".join(objective.split("/")[:2]) not in known:
                close = difflib.get_close_matches(objective, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
                raise ValueError(f"there is no metric {objective!r}; {hint}")
        return objectives

    @field_validator("algorithm", "stopping", mode="before")
    @classmethod
    def _refuse_removed(cls, name: object) -> object:
        if isinstance(name, str) and name in REMOVED:
            raise ValueError(f"{name} was removed: {REMOVED[name]}")
        return name


class SearchConfig(SearchSettings):
    """The settings of a search. `run` is what its trials have in common."""

    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _check_search(self) -> SearchConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names one twice")
        if "seed" in self.space:
            raise ValueError("every candidate is trained with the same seeds; write seeds instead of seed in space")
        if any(weight < 0 for weight in self.objectives.values()) or not sum(self.objectives.values()):
            raise ValueError("objectives need weights of 0 or more, and one above 0")
        for key, dimension in self.space.items():
            by_json = {json.dumps(value, sort_keys=True): short_text(value) for value in dimension.values or ()}
            check_distinct(f"values of {key}", by_json, by_json.__getitem__)
        both = self.dev.benchmarks.items() & self.run.evaluate.benchmarks.items()
        if both:
            raise ValueError(f"{min(both)[0]} is a test benchmark, and must not be chosen by; name another as dev")
        self._check_comparable()
        algorithm = ALGORITHMS[self.algorithm]
        compares_unfinished = algorithm.needs_intermediate_metrics or self.stopping != "none"
        if compares_unfinished and not 0 < self.measure_every < self.run.train.steps:
            decider = self.algorithm if algorithm.needs_intermediate_metrics else self.stopping
            raise ValueError(
                f"{decider} decides while trials run; write measure_every below the {self.run.train.steps} steps of a "
                "trial"
            )
        of_length = next((key for key in ("train", "train.steps") if key in self.space), None)
        if self.stopping != "none" and of_length is not None:
            raise ValueError(
                f"{self.stopping} compares trials with the same number of steps; leave {of_length} out of space, or "
                "write stopping: none"
            )
        self._check_effects()
        if self.grace_steps is not None and self.grace_steps >= self.run.train.steps:
            raise ValueError(
                f"grace_steps={self.grace_steps} leaves no trial to stop; write fewer than the "
                f"{self.run.train.steps} steps of a trial"
            )
        algorithm.validate(self)
        return self

    def _check_effects(self) -> None:
        """Check that settings which are not the default have an effect."""
        is_drawn, is_stopped = self.algorithm != "grid", self.stopping != "none"
        for name, has_effect, decider in (
            ("configurations", is_drawn, "algorithm"),
            ("seed", is_drawn, "algorithm"),
            ("branch_every", self.algorithm == "branch", "algorithm"),
            ("grace_steps", is_stopped, "stopping"),
            ("keep_share", is_stopped, "stopping"),
        ):
            if not has_effect and getattr(self, name) != SearchSettings.model_fields[name].default:
                raise ValueError(f"{name} has no effect with {decider}: {getattr(self, decider)}; leave it out")
        if self.register_as is not None and not self.run.tracking.log_model:
            raise ValueError("register_as has no effect with tracking.log_model=false of the run; leave it out")
        without_effect = next((key for key in self.space if key.split(".")[0] in _NOT_OF_TRAINING), None)
        if without_effect is not None:
            raise ValueError(f"{without_effect} changes no training; leave it out of space")

    def _check_comparable(self) -> None:
        """Check that all trials have the same dev set and keep their last weights, and that settings have an effect."""
        changes_items = next(
            (key for key in self.space if key.split(".")[0] in ("corpora", "languages", "prepare")), None
        )
        if changes_items and not self.dev.benchmarks:
            raise ValueError(
                f"{changes_items} changes which items are held out, so that trials would be chosen by different items; "
                "name a benchmark as dev"
            )
        varied = any(key.startswith("train.early_stopping") for key in self.space)
        if varied or self.run.train.early_stopping is not None:
            raise ValueError(
                "early_stopping keeps other weights than those of the last step, by which trials are compared; write "
                "early_stopping: null in the run's train, and leave it out of space"
            )
        mix = self.run.mix
        has_alpha = mix.strategy == "hybrid" and mix.alpha_schedule is None
        if "mix.alpha" in self.space and not has_alpha and "mix.strategy" not in self.space:
            raise ValueError("mix.alpha has no effect without strategy: hybrid or with an alpha_schedule; leave it out")
        if "mix.positive_languages" in self.space and mix.strategy != "one-to-k" and "mix.strategy" not in self.space:
            raise ValueError("mix.positive_languages has no effect without strategy: one-to-k; leave it out")

    @property
    def settings(self) -> SearchSettings:
        """The settings without the run."""
        return SearchSettings.model_validate(self.model_dump(exclude={"run"}))

    @property
    def every(self) -> int:
        """Optimizer steps between evaluations."""
        return self.measure_every or self.run.train.steps

    @property
    def dev_name(self) -> str:
        """The benchmark in the metrics' names of the dev set."""
        return benchmark_slug(next(iter(self.dev.benchmarks), validation_benchmark.NAME))


def load_search(path: str | Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Load a search from a YAML file and apply `key=value` overrides of its settings, or `run.key=value` of its run's.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is out of range.
    """
    data = load_with_nested_run(path, overrides, SearchConfig)
    if isinstance(data.get("space"), dict):
        data["space"] = {".".join(full_key(key)): dimension for key, dimension in data["space"].items()}
    return build(SearchConfig, data)
