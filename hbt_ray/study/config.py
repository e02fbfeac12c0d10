"""The settings of a study: a question, the methods to compare, and the benchmarks and metrics to compare them by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

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
from hbt_ray.config.base import Settings
from hbt_ray.errors import ConfigError
from hbt_ray.utils.file_names import benchmark_slug, check_distinct, word_name

SectionName = Literal["levels", "languages", "robustness", "scale", "alignment", "gap"]


def _with_full_keys(settings: Settings, config_type: type[ConfigSection]) -> Settings:
    return {".".join(full_key(key, config_type)): value for key, value in settings.items()}


class Method(ConfigSection):
    """One way to train an encoder."""

    trained: bool = True
    """False: evaluate the encoder that the other methods start from."""
    settings: Settings = Field({})
    """Settings of the run, by their keys, which may be shortened."""
    pretrained: str | None = None
    """The entry of `pretraining` whose encoder it starts from."""
    mined_with: str | None = None
    """Another method, whose encoder of the same seed mines hard negatives for this one."""
    taught_by: str | None = None
    """Another method, whose encoder of the same seed is the teacher of `loss.distillation`."""

    @field_validator("settings")
    @classmethod
    def _complete_keys(cls, settings: Settings) -> Settings:
        return _with_full_keys(settings, RunConfig)

    @property
    def needs(self) -> tuple[str, ...]:
        """The methods whose encoders this one uses."""
        return tuple(name for name in (self.mined_with, self.taught_by) if name is not None)


class StudyPretraining(ConfigSection):
    """A pretraining that methods start from. Corpora, model and lengths default to those of the study's run."""

    settings: Settings = Field({})
    """Settings of a `PretrainRunConfig`, by their keys, which may be shortened."""
    after: str | None = None
    """An earlier entry of `pretraining`, from whose encoder this one continues."""

    @field_validator("settings")
    @classmethod
    def _complete_keys(cls, settings: Settings) -> Settings:
        return _with_full_keys(settings, PretrainRunConfig)


class SyntheticBenchmark(ConfigSection):
    """A benchmark whose files are written from a parallel corpus, in the format of the published benchmark."""

    corpus: CorpusConfig
    items: int | None = Field(None, ge=2)
    """Items of the corpus whose passages are searched. None: all."""
    questions: int = Field(200, ge=2)
    """Number of these items whose questions are the queries."""


class StudySettings(ConfigSection):
    """All settings of a study except those of its runs."""

    name: str
    title: str
    question: str
    reference: str
    """The method that the other methods are compared with."""
    methods: dict[str, Method] = Field(min_length=2)
    pretraining: dict[str, StudyPretraining] = Field({})
    """An entry comes after the one that it continues from."""
    made: dict[str, SyntheticBenchmark] = Field({})
    """Benchmark name -> its source. Evaluated in addition to the run's benchmarks."""
    measures: tuple[str, ...] = Field(min_length=1)
    """Full metric names. The first one answers the question."""
    chapters: tuple[SectionName, ...] = ()
    """Sections of the report in addition to those of every study."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    licences: dict[str, str] = Field({})
    """Corpus or benchmark -> its licence."""
    limits: tuple[str, ...] = ()
    """Sentences for the report on what the study cannot show."""
    concurrent: int | None = Field(None, ge=1)
    """Experiments at the same time. None: as many as the cluster holds."""

    @model_validator(mode="after")
    def _check_consistency(self) -> StudySettings:
        if self.reference not in self.methods:
            raise ValueError(f"reference {self.reference!r} is no method; there are {', '.join(self.methods)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names one twice")
        for section in ("methods", "pretraining", "made"):
            check_distinct(section, getattr(self, section), word_name)
        earlier: set[str] = set()
        for name, pretraining in self.pretraining.items():
            if pretraining.after is not None and pretraining.after not in earlier:
                raise ValueError(
                    f"pretraining {name} comes after {pretraining.after!r}, which must be listed before it"
                )
            earlier.add(name)
        for name, method in self.methods.items():
            if method.pretrained is not None and method.pretrained not in self.pretraining:
                names = ", ".join(self.pretraining) or "none"
                raise ValueError(f"{name} starts from {method.pretrained!r}, which is not in pretraining: {names}")
            for needed in method.needs:
                if needed == name or needed not in self.methods or self.methods[needed].needs:
                    raise ValueError(f"{name} needs {needed!r}, which must be another method that needs none itself")
        return self


class StudyConfig(StudySettings):
    """A study's settings, with those of the run that all its methods change."""

    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _check_benchmarks(self) -> StudyConfig:
        evaluated = self.run.evaluate.benchmarks
        twice = next((name for name in self.made if name in evaluated), None)
        if twice is not None:
            raise ValueError(f"{twice} is in made and in run.evaluate.benchmarks; rename one, such as {twice}/made")
        check_distinct("benchmarks", [*self.made, *evaluated], benchmark_slug)
        return self

    @property
    def without_run(self) -> StudySettings:
        """The study's settings without those of its run."""
        return StudySettings.model_validate(self.model_dump(exclude={"run"}))


def study_file(name: str) -> Path:
    """Return the file of a study of this package.

    Raises:
        ConfigError: there is none of that name.
    """
    studies = CONFIGS / "studies"
    if (studies / f"{name}.yaml").exists():
        return studies / f"{name}.yaml"
    names = ", ".join(sorted(file.stem for file in studies.glob("*.yaml")))
    raise ConfigError(f"there is no study {name!r}; there are {names}, and --config FILE is for another one")


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Load a study from a YAML file and apply `key=value` overrides; those of its run begin with `run.`.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is out of range.
    """
    data = load_with_nested_run(path, overrides, StudyConfig)
    data["run"].setdefault("name", data.get("name", "study"))
    return build(StudyConfig, data)
