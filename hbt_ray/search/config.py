"""The settings of a search: a run, what is varied of it, and what is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hbt_ray.config import ConfigSection, RunConfig, build, full_key, load_with_nested_run
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.evaluation import validation_benchmark

Algorithm = Literal["grid", "random", "tpe", "nsga2", "pbt"]
# Settings whose every value needs a store or an encoder of its own, which are made before the first trial.
MADE_BEFOREHAND = ("corpora", "languages", "prepare.", "text.", "model.")


OBJECTIVES = ("mono/map", "cross/map", "multi/map", "multi/rank_distance")


class SearchDimension(ConfigSection):
    """What one setting may be: one of these four."""

    values: tuple[Any, ...] | None = None  # each in a grid, one of them elsewhere
    uniform: tuple[float, float] | None = None  # between these
    loguniform: tuple[float, float] | None = None  # between these, each power of ten as likely
    integers: tuple[int, int] | None = None  # between these, both counted in

    @model_validator(mode="before")
    @classmethod
    def _list_of_values(cls, data: Any) -> Any:
        return {"values": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _one_of_them(self) -> SearchDimension:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("write a list of values, or one of uniform, loguniform and integers as [least, most]")
        if self.values is not None and not self.values:
            raise ValueError("name at least one value")
        bounds = self.uniform or self.loguniform or self.integers
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"{list(bounds)} must be [least, most]")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform {list(self.loguniform)} needs bounds above 0")
        return self


class DevConfig(ConfigSection):
    """What configurations are chosen by; never what they are reported on."""

    benchmarks: dict[str, str | None] = Field(
        {}, max_length=1
    )  # name -> folder; none: the corpora's held-out items as a retrieval set
    items: int = Field(200, ge=2)  # of the held-out ones, of each source


class SearchSettings(ConfigSection):
    """What a search does with its runs."""

    space: dict[str, SearchDimension] = Field(min_length=1)  # setting -> what it may be
    algorithm: Algorithm = "grid"
    configurations: int = Field(16, ge=2)  # tried by random, tpe and nsga2; the population of pbt
    seeds: tuple[int, ...] = Field((0,), min_length=1)  # each configuration is trained with every one
    seed: int = Field(0, ge=0)  # of what the search draws itself
    stopping: Literal["none", "asha", "median"] = "none"  # of trials that promise little
    measure_every: int = Field(0, ge=0)  # optimizer steps between measurements on the dev set; 0: at the end alone
    grace_steps: int | None = Field(None, ge=1)  # before which no trial is stopped; None: the first measurement
    keep_share: float = Field(0.5, gt=0, lt=1)  # asha: of the trials at each rung
    # What is wanted, by the measures' names on the dev set, with weights for the choice of one.
    objectives: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(OBJECTIVES, 1.0), min_length=1)
    dev: DevConfig = DevConfig()
    concurrent: int | None = Field(None, ge=1)  # trials at a time; None: as many as there is room for
    max_failures: int = Field(1, ge=0)  # times that a failed trial is tried again
    register_as: str | None = None  # name in MLflow's Model Registry; None: the run's name


class SearchConfig(SearchSettings):
    """A search. `run` is what every trial has in common."""

    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names one twice")
        if any(weight < 0 for weight in self.objectives.values()) or not sum(self.objectives.values()):
            raise ValueError("objectives need weights of 0 or more, and one above 0")
        both = self.dev.benchmarks.items() & self.run.evaluate.benchmarks.items()
        if both:
            raise ValueError(f"{min(both)[0]} is a test benchmark, and must not be chosen by; name another as dev")
        needs_measures = self.stopping != "none" or self.algorithm == "pbt"
        if needs_measures and not 0 < self.measure_every < self.run.train.steps:
            raise ValueError(
                f"{'pbt' if self.algorithm == 'pbt' else self.stopping} decides while trials run; write measure_every "
                f"below the {self.run.train.steps} steps of a trial"
            )
        if self.algorithm == "grid":
            drawn = next((key for key, axis in self.space.items() if axis.values is None), None)
            if drawn is not None:
                raise ValueError(f"a grid needs values for {drawn}; write a list of them, or algorithm: random")
        if self.algorithm == "pbt":
            if set(self.space) != {"mix.alpha"}:
                raise ValueError("pbt finds a schedule of mix.alpha; leave other settings out of space")
            if self.run.train.max_workers > 1:
                raise ValueError("pbt trains each member in one process; write run.train.workers=1")
            if self.stopping != "none" or len(self.seeds) > 1:
                raise ValueError("pbt has a population of one seed and stops none; write one seed and stopping: none")
        if self.algorithm == "nsga2" and len(self.seeds) > 1:
            raise ValueError("nsga2 weighs every trial by itself; write one seed")
        if self.algorithm in ("tpe", "nsga2"):
            made = next((key for key in self.space if key.startswith(MADE_BEFOREHAND)), None)
            if made is not None:
                raise ValueError(
                    f"{made} needs a store or encoder of its own; search it with algorithm: grid or random"
                )
        return self

    @property
    def settings(self) -> SearchSettings:
        """All but the run."""
        return SearchSettings.model_validate(self.model_dump(exclude={"run"}))

    @property
    def every(self) -> int:
        """Optimizer steps between measurements."""
        return self.measure_every or self.run.train.steps

    @property
    def dev_name(self) -> str:
        """With what the names of the objectives' metrics begin."""
        return benchmark_slug(next(iter(self.dev.benchmarks), validation_benchmark.NAME))


def load_search(path: str | Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Reads a YAML file, and applies `key=value` overrides of the search's own settings or, behind `run.`, of its run.

    Raises:
        ConfigError: it cannot be read, a key is unknown, or a value cannot be.
    """
    data = load_with_nested_run(path, overrides)
    if isinstance(data.get("space"), dict):
        data["space"] = {".".join(full_key(key)): axis for key, axis in data["space"].items()}
    return build(SearchConfig, data)
