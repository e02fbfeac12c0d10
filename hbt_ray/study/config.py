"""The settings of a study: a question, the methods to compare, and the benchmarks and metrics to compare them by."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
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
    replace_in,
)
from hbt_ray.config.base import Settings
from hbt_ray.errors import ConfigError
from hbt_ray.study.claims import Claim
from hbt_ray.utils.file_names import benchmark_slug, check_distinct, word_name

SectionName = Literal["levels", "languages", "robustness", "scale", "alignment", "gap", "alpha"]


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
    encoder_of: str | None = None
    """Another method, whose encoder of the same seed is evaluated. Needs `trained: false`."""
    averaged_with: str | None = None
    """Another method. Its weights of the same seed and this one's are averaged before the evaluation."""
    debiased: Literal["mean", "projection", "leace"] | None = None
    """How the language is removed from the vectors of its encoder, fitted on the corpora as by `hbt debias`."""
    tokens_of: str | None = None
    """Another method. As many steps as encode as many tokens as that one's `train.steps`, rounded up."""

    @field_validator("settings")
    @classmethod
    def _complete_keys(cls, settings: Settings) -> Settings:
        return _with_full_keys(settings, RunConfig)

    @property
    def needs(self) -> tuple[str, ...]:
        """The methods whose encoders this one uses."""
        return tuple(
            name for name in (self.mined_with, self.taught_by, self.encoder_of, self.averaged_with) if name is not None
        )

    @model_validator(mode="after")
    def _check_untrained(self) -> Method:
        if self.trained and self.encoder_of:
            raise ValueError(f"encoder_of {self.encoder_of!r} is evaluated as it is; write trained: false")
        if not self.trained and self.taught_by:
            raise ValueError(f"taught_by {self.taught_by!r} has no effect with trained: false; leave one of them out")
        of_training = (key for key in self.settings if key.startswith(("train.", "mix.", "loss.")))
        if not self.trained and (key := next(of_training, None)):
            raise ValueError(f"{key} has no effect with trained: false; leave one of them out")
        return self


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


class PublishedValues(ConfigSection):
    """Values that others have published, which the report cites."""

    source: str
    """Authors, year and address."""
    encoder: str
    """Which they trained."""
    values: dict[str, dict[str, float]] = Field(min_length=1)
    """Method -> full metric name -> value."""


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
    claims: tuple[Claim, ...] = ()
    """Statements about methods, tested over seeds; kept in a plan before the first training."""
    chapters: tuple[SectionName, ...] = ()
    """Sections of the report in addition to those of every study."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    optional_benchmarks: tuple[str, ...] = ()
    """Names in `run.evaluate.benchmarks` that are left out, with their metrics, where their folder does not exist."""
    published: tuple[PublishedValues, ...] = ()
    """Values of others, cited in the report."""
    licences: dict[str, str] = Field({})
    """Corpus or benchmark -> its licence."""
    limits: tuple[str, ...] = ()
    """Sentences for the report on what the study cannot show."""
    debias_items: int = Field(500, ge=1)
    """`debiased`: the maximum of items of each language that are fitted on."""
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
        for claim in self.claims:
            for name in (claim.method, claim.versus):
                if name not in self.methods:
                    raise ValueError(f"a claim names {name!r}, which is no method; there are {', '.join(self.methods)}")
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
            if method.tokens_of is not None and (
                method.tokens_of == name
                or method.tokens_of not in self.methods
                or self.methods[method.tokens_of].tokens_of
                or self.methods[method.tokens_of].needs
                or not (method.trained and self.methods[method.tokens_of].trained)
            ):
                raise ValueError(
                    f"{name} takes the tokens of {method.tokens_of!r}, which must be another trained method with steps "
                    "of its own"
                )
            unknown = next((needed for needed in method.needs if needed not in self.methods), None)
            if unknown is not None:
                raise ValueError(f"{name} needs {unknown!r}, which is no method; there are {', '.join(self.methods)}")
            with_language = next((needed for needed in method.needs if self.methods[needed].debiased == "mean"), None)
            if with_language is not None:
                raise ValueError(
                    f"{name} needs the encoder of {with_language!r}, which cannot be used without the language of each "
                    "text; write debiased: projection there"
                )
        try:
            graphlib.TopologicalSorter({name: method.needs for name, method in self.methods.items()}).prepare()
        except graphlib.CycleError as error:
            raise ValueError(f"methods need each other's encoders: {', '.join(error.args[1])}") from None
        return self

    @model_validator(mode="after")
    def _check_effects(self) -> StudySettings:
        methods = self.methods.values()
        pretrainings = [self.pretraining[one.pretrained].settings for one in methods if one.pretrained is not None]
        if "scale" in self.chapters and not any(settings.get("languages") for settings in pretrainings):
            raise ValueError("the chapter scale needs a method whose pretraining sets languages; leave it out")
        default = type(self).model_fields["debias_items"].default
        if self.debias_items != default and not any(method.debiased for method in methods):
            raise ValueError("debias_items has no effect where no method is debiased; leave it out")
        return self


def depth_of(methods: Mapping[str, Method], name: str) -> int:
    """Return how many methods must be finished one after another before a method can begin."""
    return max((1 + depth_of(methods, needed) for needed in methods[name].needs), default=0)


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

    @model_validator(mode="after")
    def _check_evaluation(self) -> StudyConfig:
        evaluate = self.run.evaluate
        if "robustness" in self.chapters and not evaluate.perturbations:
            raise ValueError(
                "the chapter robustness needs perturbed queries; write run.evaluate.perturbations=[typos], or leave "
                "the chapter out"
            )
        for name, method in self.methods.items():
            dimensions = method.settings.get("evaluate.dimensions", evaluate.dimensions)
            if method.debiased == "mean" and dimensions is not None:
                raise ValueError(
                    f"evaluate.dimensions {dimensions} would cut vectors from which {name} subtracts whole means; "
                    "leave it out, or write debiased: projection"
                )
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


def load_study(path: str | Path, overrides: Sequence[str] = (), preset: str | None = None) -> StudyConfig:
    """Load a study from a YAML file and apply `key=value` overrides; those of its run begin with `run.`.

    Args:
        path: the file.
        overrides: applied in order.
        preset: name of settings in the file's section `presets`, which replace the others; None: none.

    Raises:
        ConfigError: the file cannot be read, has no such preset, a key is unknown, or a value is out of range.
    """
    data = load_with_nested_run(path, overrides, StudyConfig, preset)
    data["run"].setdefault("name", data.get("name", "study"))
    return build(StudyConfig, data)


def without_absent_benchmarks(config: StudyConfig) -> tuple[StudyConfig, list[str]]:
    """Leave out the optional benchmarks whose folder does not exist, and their metrics and claims.

    Returns:
        The settings, and the benchmarks that were left out.

    Raises:
        ConfigError: no metric is left.
    """
    benchmarks = config.run.evaluate.benchmarks
    absent = [
        name
        for name in config.optional_benchmarks
        if (folder := benchmarks.get(name)) and not Path(folder).expanduser().exists()
    ]
    if not absent:
        return config, []
    slugs = set(map(benchmark_slug, absent))
    measures = tuple(metric for metric in config.measures if slugs.isdisjoint(metric.split("/")[:2]))
    claims = tuple(claim for claim in config.claims if slugs.isdisjoint(claim.metric.split("/")[:2]))
    if not measures:
        raise ConfigError(f"none of the benchmarks {', '.join(absent)} is there; write the folder of one of them")
    present = {name: folder for name, folder in benchmarks.items() if name not in absent}
    config = replace_in(replace_in(config, "measures", measures), "claims", claims)
    return replace_in(config, "run.evaluate.benchmarks", present), absent
