"""A study's experiments, each a method with a seed: their configurations, folders and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.config import PretrainRunConfig, RunConfig, build, replace_in, set_key, with_absolute_paths, with_settings
from hbt_ray.config.base import Settings
from hbt_ray.errors import CheckpointError
from hbt_ray.evaluation.report import report_fault
from hbt_ray.study.config import Method, StudyConfig, depth_of
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.training.training_record import read_training_record
from hbt_ray.utils.digests import JsonObject, content_digest, done_with, first_difference, is_done, mark_done
from hbt_ray.utils.file_names import word_name
from hbt_ray.utils.storage import StoragePath, file_sha256

_FINISHED = "finished.json"  # in the folder of an experiment or pretraining, written last
_LOGGED = "logged.json"  # in the folder of an experiment


@dataclass(frozen=True, slots=True)
class Experiment:
    """One method with one seed."""

    method_name: str
    seed: int
    method: Method
    config: RunConfig  # of its training and evaluation; without the results of other methods, until they exist
    debias_items: int  # of each language, if the method removes the language

    @property
    def label(self) -> str:
        return f"{self.method_name}, seed {self.seed}"

    def run_dir(self, study: Path) -> RunDir:
        """Return its paths in the study's folder."""
        return run_dir_of(self.config, study / "cells" / word_name(self.method_name) / f"seed-{self.seed}", study)

    def steps(self, study: Path) -> int:
        """Return the training steps of the weights of its encoder; 0 of a method that trains nothing."""
        if not self.method.trained:
            return 0
        record = read_training_record(self.run_dir(study).model)
        return self.config.train.steps if record is None else record.steps

    def is_finished(
        self, study: Path, encoder: str, benchmarks: Mapping[str, str], averaged_with: str | None = None
    ) -> bool:
        """Return whether its reports are as they were written, of this encoder, these benchmarks and these settings.

        Args:
            study: folder of the study.
            encoder: folder or hub name of the encoder to evaluate. That of a finished experiment may be deleted.
            benchmarks: name -> fingerprint of its content.
            averaged_with: folder or hub name of the encoder whose weights are averaged with it; None: none.

        Raises:
            CheckpointError: the trained encoder is not as it was when it was evaluated.
        """
        run_dir = self.run_dir(study)
        before = done_with(_marker(run_dir))
        if before is None:
            return False
        now = self._evaluated_with(run_dir, encoder, benchmarks, averaged_with)
        if self.method.trained and not run_dir.model.exists():
            now["model"] = before.get("model")
        if self.method.trained and now["model"] != before.get("model"):
            raise CheckpointError(
                f"the encoder {run_dir.model} is not as it was written; delete {run_dir.path} to train it again"
            )
        return first_difference(before, now) is None and not any(
            report_fault(run_dir.evaluations / name) for name in now["reports"]
        )

    def mark_finished(
        self, study: Path, encoder: str, benchmarks: Mapping[str, str], averaged_with: str | None = None
    ) -> None:
        """Record what it is evaluated with, and the checksums of its reports. Arguments as of `is_finished`."""
        run_dir = self.run_dir(study)
        mark_done(_marker(run_dir), self._evaluated_with(run_dir, encoder, benchmarks, averaged_with))

    def is_logged(self, study: Path) -> bool:
        """Return whether MLflow has its results, as they were when it was last marked as finished."""
        run_dir = self.run_dir(study)
        finished = done_with(_marker(run_dir))
        return finished is not None and is_done(StoragePath.of(run_dir.path / _LOGGED), finished)

    def mark_logged(self, study: Path) -> None:
        """Record that MLflow has the results of an experiment that is marked as finished."""
        run_dir = self.run_dir(study)
        mark_done(StoragePath.of(run_dir.path / _LOGGED), done_with(_marker(run_dir)) or {})

    def _evaluated_with(
        self, run_dir: RunDir, encoder: str, benchmarks: Mapping[str, str], averaged_with: str | None = None
    ) -> JsonObject:
        reports = sorted(file for file in run_dir.evaluations.glob("*/report.json") if file.is_file())
        return {
            "evaluate": self.config.evaluate.fingerprint(),
            "benchmarks": dict(benchmarks),
            "model": content_digest(encoder),
            **({} if averaged_with is None else {"averaged_with": content_digest(averaged_with)}),
            **({"debiased": [self.method.debiased, self.debias_items]} if self.method.debiased else {}),
            "reports": {file.parent.name: file_sha256(file) for file in reports},
        }


def _marker(run_dir: RunDir) -> StoragePath:
    return StoragePath.of(run_dir.path / _FINISHED)


@dataclass(frozen=True, slots=True)
class TrainingTokens:
    """The size of an experiment's training."""

    steps: int
    encoded_tokens: int


def list_experiments(config: StudyConfig, benchmarks: Mapping[str, str | None]) -> list[Experiment]:
    """Return all experiments by method and seed; those that need another method's encoder come last.

    Args:
        config: of the study.
        benchmarks: to evaluate every experiment on: name -> folder.

    Raises:
        ConfigError: a setting of a method is wrong.
    """
    base = replace_in(config.run, "evaluate.benchmarks", dict(benchmarks))
    base = replace_in(base, "evaluate.figures", False)
    experiments = [
        Experiment(name, seed, method, with_settings(base, {**_settings_of(method), "seed": seed}), config.debias_items)
        for name, method in config.methods.items()
        for seed in config.seeds
    ]
    return sorted(experiments, key=lambda experiment: depth_of(config.methods, experiment.method_name))


def _settings_of(method: Method) -> dict[str, object]:
    """Return a method's settings. The name of the method that teaches it is in place of a folder until there is one."""
    settings: dict[str, object] = dict(method.settings)
    if method.taught_by and any(key.startswith("loss.distillation.") for key in settings):
        settings["loss.distillation.teacher"] = method.taught_by
    return settings


def dependency_levels(config: StudyConfig, experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group experiments that do not depend on each other: first those that need no other method's encoder."""
    levels: dict[int, list[Experiment]] = {}
    for experiment in experiments:
        levels.setdefault(depth_of(config.methods, experiment.method_name), []).append(experiment)
    return [levels[depth] for depth in sorted(levels)]


# Pretrainings


def pretraining_config(config: StudyConfig, name: str, seed: int) -> PretrainRunConfig:
    """Return the configuration of a pretraining with a seed, without the encoder that it continues from.

    Raises:
        ConfigError: a setting is wrong.
    """
    run = config.run
    data: Settings = {
        "name": name,
        "corpora": [corpus.model_dump(mode="json") for corpus in run.corpora],
        **{
            section: getattr(run, section).model_dump(mode="json")
            for section in ("prepare", "text", "model", "tracking")
        },
    }
    for key, value in config.pretraining[name].settings.items():
        set_key(data, key.split("."), value)
    return with_absolute_paths(build(PretrainRunConfig, data | {"seed": seed}))


def pretraining_dir(study: Path, config: PretrainRunConfig) -> RunDir:
    """Return the paths of a pretraining in the study's folder."""
    return run_dir_of(config, study / "pretraining" / word_name(config.name) / f"seed-{config.seed}", study)


def is_pretrained(study: Path, config: PretrainRunConfig) -> bool:
    """Return whether a pretraining is finished, and its encoder as it was written."""
    run_dir = pretraining_dir(study, config)
    file = run_dir.path / _FINISHED
    if file.exists() and not file.stat().st_size:  # of an earlier version
        return run_dir.model.exists()
    return is_done(_marker(run_dir), {"model": content_digest(run_dir.model)})


def mark_pretrained(run_dir: RunDir) -> None:
    """Record that a pretraining is finished, and the digest of its encoder."""
    mark_done(_marker(run_dir), {"model": content_digest(run_dir.model)})


def pretraining_levels(config: StudyConfig) -> list[list[str]]:
    """Group the pretrainings that methods need: each continues from one of an earlier group, or from none."""
    needed: set[str] = set()
    for method in config.methods.values():
        name = method.pretrained
        while name is not None and name not in needed:
            needed.add(name)
            name = config.pretraining[name].after
    level_of: dict[str, int] = {}
    for name, pretraining in config.pretraining.items():
        level_of[name] = 0 if pretraining.after is None else level_of[pretraining.after] + 1
    levels: list[list[str]] = [[] for _ in range(1 + max(level_of.values(), default=-1))]
    for name, level in level_of.items():
        if name in needed:
            levels[level].append(name)
    return [level for level in levels if level]
