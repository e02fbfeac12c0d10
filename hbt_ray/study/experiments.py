"""A study's experiments, each a method with a seed: their configurations, folders and order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.config import PretrainRunConfig, RunConfig, build, replace_in, set_key, with_absolute_paths, with_settings
from hbt_ray.study.config import Method, StudyConfig
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.utils.file_names import word_name

_FINISHED = "finished.json"  # in the folder of an experiment or pretraining, written last


@dataclass(frozen=True, slots=True)
class Experiment:
    """One method with one seed."""

    method_name: str
    seed: int
    method: Method
    config: RunConfig  # of its training and evaluation; without the results of other methods, until they exist

    @property
    def label(self) -> str:
        return f"{self.method_name}, seed {self.seed}"

    def run_dir(self, study: Path) -> RunDir:
        """Return its paths in the study's folder."""
        return run_dir_of(self.config, study / "cells" / word_name(self.method_name) / f"seed-{self.seed}", study)

    def is_finished(self, study: Path) -> bool:
        """Return whether it is evaluated with the settings of evaluation that it has now."""
        file = self.run_dir(study).path / _FINISHED
        return file.exists() and json.loads(file.read_text(encoding="utf-8")) == self._evaluated_with

    def mark_finished(self, study: Path) -> None:
        """Record that it is evaluated with its settings of evaluation."""
        (self.run_dir(study).path / _FINISHED).write_text(json.dumps(self._evaluated_with), encoding="utf-8")

    @property
    def _evaluated_with(self) -> dict[str, str]:
        return {"evaluate": self.config.evaluate.fingerprint()}


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
        Experiment(name, seed, method, with_settings(base, {**method.settings, "seed": seed}))
        for name, method in config.methods.items()
        for seed in config.seeds
    ]
    return sorted(experiments, key=lambda experiment: bool(experiment.method.needs))


def dependency_levels(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group experiments that do not depend on each other: first those that need no other method's encoder."""
    independent = [experiment for experiment in experiments if not experiment.method.needs]
    dependent = [experiment for experiment in experiments if experiment.method.needs]
    return [level for level in (independent, dependent) if level]


# Pretrainings


def pretraining_config(config: StudyConfig, name: str, seed: int) -> PretrainRunConfig:
    """Return the configuration of a pretraining with a seed, without the encoder that it continues from.

    Raises:
        ConfigError: a setting is wrong.
    """
    run = config.run
    data: dict[str, Any] = {
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
    """Return whether a pretraining is finished."""
    return (pretraining_dir(study, config).path / _FINISHED).exists()


def mark_pretrained(run_dir: RunDir) -> None:
    """Record that a pretraining is finished."""
    (run_dir.path / _FINISHED).touch()


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
