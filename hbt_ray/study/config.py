"""The settings of a study: a question, the methods that are compared, and what they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hbt_ray.config import (
    CONFIGS,
    ConfigSection,
    CorpusConfig,
    PretrainRunConfig,
    RunConfig,
    build,
    full_key,
    load_with_nested_run,
)
from hbt_ray.errors import ConfigError

Chapter = Literal["levels", "languages", "robustness", "scale", "alignment", "gap"]


class Method(ConfigSection):
    """One way to come to an encoder."""

    trained: bool = True  # False: the encoder that the others start from, as it is
    settings: dict[str, Any] = Field({})  # of the run, by their keys
    pretrained: str | None = None  # a name in `pretraining`: what it starts from
    mined_with: str | None = None  # another method, with whose encoder of the same seed hard negatives are mined
    taught_by: str | None = None  # another method, whose encoder of the same seed is the teacher of `loss.distillation`

    @property
    def needs(self) -> tuple[str, ...]:
        """Other methods that must have been trained before."""
        return tuple(name for name in (self.mined_with, self.taught_by) if name is not None)


class Pretraining(ConfigSection):
    """What some methods start from. Corpora, model and lengths are the run's, where its settings name no others."""

    settings: dict[str, Any] = Field({})  # of a `PretrainRunConfig`, by their keys
    after: str | None = None  # another pretraining, from whose encoder this one goes on


class MadeBenchmark(ConfigSection):
    """A benchmark whose files are written from a parallel corpus, in the format of the published one."""

    corpus: CorpusConfig
    items: int | None = Field(None, ge=2)  # of the corpus, whose passages are in the pools; None: all
    questions: int = Field(200, ge=2)  # items of these whose questions are asked


class StudySettings(ConfigSection):
    """All of a study but its runs."""

    name: str
    title: str
    question: str
    reference: str  # the method that the others are compared with
    methods: dict[str, Method] = Field(min_length=2)
    pretraining: dict[str, Pretraining] = Field({})  # those that come after another stand behind it
    made: dict[str, MadeBenchmark] = Field({})  # benchmark name -> what it is made from; besides the run's benchmarks
    measures: tuple[str, ...] = Field(min_length=1)  # metrics, as reports name them; the first is the one that counts
    chapters: tuple[Chapter, ...] = ()  # of the report, besides those that every study has
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    licences: dict[str, str] = Field({})  # of each corpus and benchmark
    limits: tuple[str, ...] = ()  # what the study cannot say
    concurrent: int | None = Field(None, ge=1)  # cells at a time; None: as many as there is room for

    @model_validator(mode="after")
    def _consistent(self) -> StudySettings:
        if self.reference not in self.methods:
            raise ValueError(f"reference {self.reference!r} is no method; there are {', '.join(self.methods)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names one twice")
        known: set[str] = set()
        for name, pretraining in self.pretraining.items():
            if pretraining.after is not None and pretraining.after not in known:
                raise ValueError(f"pretraining {name} comes after {pretraining.after!r}, which must stand before it")
            known.add(name)
        for name, method in self.methods.items():
            if method.pretrained is not None and method.pretrained not in self.pretraining:
                there = ", ".join(self.pretraining) or "none"
                raise ValueError(f"{name} starts from {method.pretrained!r}, which is not in pretraining: {there}")
            for needed in method.needs:
                if needed == name or needed not in self.methods or self.methods[needed].needs:
                    raise ValueError(f"{name} needs {needed!r}, which must be another method that needs none itself")
        return self


class StudyConfig(StudySettings):
    """A study. `run` is what its methods have in common."""

    run: RunConfig = RunConfig()

    @property
    def own_settings(self) -> StudySettings:
        return StudySettings.model_validate(self.model_dump(exclude={"run"}))


def study_file(name: str) -> Path:
    """Return the file of a study that comes with the package.

    Raises:
        ConfigError: there is none of that name.
    """
    studies = CONFIGS / "studies"
    if (studies / f"{name}.yaml").exists():
        return studies / f"{name}.yaml"
    names = ", ".join(sorted(file.stem for file in studies.glob("*.yaml")))
    raise ConfigError(f"there is no study {name!r}; there are {names}, and --config FILE is for your own")


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Reads a YAML file, and applies `key=value` overrides of the study's settings or, behind `run.`, of its runs.

    Raises:
        ConfigError: it cannot be read, a key is unknown, or a value cannot be.
    """
    data = load_with_nested_run(path, overrides)
    for part, section in (("methods", RunConfig), ("pretraining", PretrainRunConfig)):
        for own in (data.get(part) or {}).values():
            if isinstance(own, dict) and isinstance(own.get("settings"), dict):
                own["settings"] = {".".join(full_key(key, section)): value for key, value in own["settings"].items()}
    data["run"].setdefault("name", data.get("name", "study"))
    return build(StudyConfig, data)
