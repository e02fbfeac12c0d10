"""The runs to compare: read from folders or from MLflow, with the seeds of one method in one group."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hbt_ray.config import build_config, expand_environment, flatten, parse_yaml
from hbt_ray.errors import UserError
from hbt_ray.evaluation.report import find_reports, has_per_query, read_per_query, read_report

_IGNORED_SETTINGS = ("name", "seed", "storage", "tracking.")


@dataclass(frozen=True, slots=True)
class RunGroup:
    """One training method, with one run or a run for each of several seeds."""

    label: str
    metrics: tuple[Mapping[str, float], ...]  # of each run
    reports: tuple[Mapping[str, Path], ...] = ()  # of each run: benchmark -> the folder of its report
    seeds: tuple[int | None, ...] = ()  # of each run; None: unknown, as of a model not trained here; (): all unknown

    @classmethod
    def of_run(cls, label: str, folder: str | Path) -> RunGroup:
        """Read one run from the reports below a folder. Raise UserError as `run_groups_in` does."""
        metrics, reports = _read_run(folder)
        return cls(label, (metrics,), (reports,), (_method(folder)[1],))

    def values(self, metric: str) -> list[float]:
        """Return a metric of each run that has it."""
        return [of_run[metric] for of_run in self.metrics if metric in of_run]

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over runs; None where no run has it."""
        values = self.values(metric)
        return float(np.mean(values)) if values else None

    def has(self, benchmark: str, metric: str) -> bool:
        """Return whether every run with a report on a benchmark has a metric."""
        runs = zip(self.metrics, self.reports, strict=False)  # a group without reports has none to test
        return all(metric in of_run for of_run, reports in runs if benchmark in reports)

    def per_query(self, benchmark: str) -> list[pa.Table]:
        """Read the per-query table of each run on a benchmark; empty where a run was written without one."""
        folders = [of_run[benchmark] for of_run in self.reports if benchmark in of_run]
        return [read_per_query(folder) for folder in folders] if all(map(has_per_query, folders)) else []

    def seeds_on(self, benchmark: str) -> list[int | None]:
        """Return the seed of each table that `per_query` reads."""
        seeds = self.seeds or (None,) * len(self.reports)
        return [seed for seed, of_run in zip(seeds, self.reports, strict=True) if benchmark in of_run]

    def is_of_training(self, benchmark: str) -> bool:
        """Return whether a report on a benchmark is of a model of this machine that was trained from another one."""
        folders = [of_run[benchmark] for of_run in self.reports if benchmark in of_run]
        models = [read_report(folder).get("model") for folder in folders]
        return any(isinstance(one, dict) and "base_model" in one and not one.get("revision") for one in models)

    def splits(self, benchmark: str) -> set[str]:
        """Return the splits of a benchmark on which its runs were evaluated; "" is the default one."""
        return {
            str(read_report(of_run[benchmark]).get("split") or "") for of_run in self.reports if benchmark in of_run
        }

    def fingerprints(self, benchmark: str) -> set[str]:
        """Return the fingerprints of the texts and judgements on which its runs were evaluated."""
        folders = [of_run[benchmark] for of_run in self.reports if benchmark in of_run]
        return {str(read_report(folder).get("fingerprint")) for folder in folders}


def read_run_metrics(folder: str | Path) -> dict[str, float]:
    """Read the metrics of a report's folder, or of all benchmarks of a run's folder.

    Raises:
        UserError: there is no report, one cannot be read, or they are of several models.
    """
    return _read_run(folder)[0]


def _read_run(folder: str | Path) -> tuple[dict[str, float], dict[str, Path]]:
    metrics: dict[str, float] = {}
    reports: dict[str, Path] = {}
    of_models: dict[tuple[object, object], Path] = {}  # path and revision of a model -> the folder of a report
    for one in find_reports(Path(folder).expanduser()):
        report = read_report(one)
        metrics |= report["metrics"]
        benchmark, model = str(report.get("benchmark")), report.get("model")
        if benchmark in reports and "benchmark" in report:
            raise UserError(
                f"{str(reports[benchmark])!r} and {str(one)!r} hold reports of one benchmark, {benchmark}; delete one"
            )
        reports[benchmark] = one
        if isinstance(model, dict):
            of_models.setdefault((model.get("path"), model.get("revision")), one)
        if len(of_models) > 1:
            first, second = of_models.values()
            raise UserError(f"{str(first)!r} and {str(second)!r} hold reports of two models; delete those of one")
    return metrics, reports


def run_groups_in(folders: Sequence[str]) -> list[RunGroup]:
    """Read the runs of some folders; runs that differ only in their seed form one group.

    A run is labelled by its path below the folder that all have in common.

    Raises:
        UserError: a folder has no report, or one cannot be read.
    """
    paths = [Path(folder).expanduser().resolve() for folder in folders]
    twice = next((folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is named twice; name each run once")
    common = os.path.commonpath([path.parent for path in paths]) if paths else ""
    labels = [os.path.relpath(path, common) for path in paths]
    runs = {}
    for label, one in zip(labels, folders, strict=True):
        method, seed = _method(one)
        runs[label] = _Run(method or label, seed, *_read_run(one))
    return _by_method(runs)


@dataclass(frozen=True, slots=True)
class _Run:
    method: str  # equal for runs that differ only in their seed
    seed: int | None
    metrics: Mapping[str, float]
    reports: Mapping[str, Path] | None


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run of a tracking server."""

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    folder: Path | None = None  # of its reports, if it has any


def run_groups_of(runs: Mapping[str, TrackedRun]) -> list[RunGroup]:
    """Group tracked runs, by label, as `run_groups_in` does."""
    read = {}
    for label, run in runs.items():
        reported, reports = _read_run(run.folder) if run.folder else ({}, None)
        # A tracking server does not allow all characters of metric names, so the reports' names take precedence.
        method = _key(run.params) if run.params else label
        seed = run.params.get("seed", "")
        read[label] = _Run(method, int(seed) if seed.isdecimal() else None, {**run.metrics, **reported}, reports)
    return _by_method(read)


def _by_method(runs: Mapping[str, _Run]) -> list[RunGroup]:
    """Group labelled runs by method; runs whose seeds are equal or not known differ in something else."""
    methods: dict[str, list[str]] = {}
    for label, run in runs.items():
        methods.setdefault(run.method, []).append(label)
    groups = []
    for labels in _split_equal_seeds(methods.values(), runs):
        first = labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more seeds"
        of_method = [runs[label] for label in labels]
        reports = tuple(run.reports for run in of_method if run.reports is not None)
        is_complete = len(reports) == len(labels)
        metrics, seeds = tuple(run.metrics for run in of_method), tuple(run.seed for run in of_method)
        groups.append(RunGroup(first, metrics, reports if is_complete else (), seeds if is_complete else ()))
    return groups


def _split_equal_seeds(methods: Iterable[list[str]], runs: Mapping[str, _Run]) -> Iterator[list[str]]:
    for labels in methods:
        seeds = [runs[label].seed for label in labels]
        if None in seeds or len(set(seeds)) < len(seeds):
            yield from ([label] for label in labels)
        else:
            yield labels


def _method(folder: str | Path) -> tuple[str | None, int | None]:
    """Return a key of a run's training settings without the seed, and the seed; None where it has no settings.

    Methods of a study may have equal settings, as those of an encoder before and after training, so its folder
    `cells/<method>` is part of the key.
    """
    path = Path(folder).expanduser().resolve()
    file = path / "run.yaml"
    try:
        stored = parse_yaml(file.read_text(encoding="utf-8"), file)
        config = build_config(expand_environment(stored, keep_missing=True))
        of_study = path.parent if path.parent.parent.name == "cells" else ""
        return f"{_key(flatten(config))} {of_study}", config.seed
    except (OSError, ValueError):  # ConfigError is a ValueError
        return None, None


def _key(settings: Mapping[str, object]) -> str:
    kept = {key: str(value) for key, value in settings.items() if not key.startswith(_IGNORED_SETTINGS)}
    return json.dumps(kept, sort_keys=True)
