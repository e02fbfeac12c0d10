"""The runs that are compared: read from folders or from MLflow, seeds of one method together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hbt_ray.config import build_config, flatten
from hbt_ray.errors import ConfigError, UserError

# Where reports stand: in the folder itself, in one for each benchmark, in a training run's folder.
_REPORTS = ("report.json", "*/report.json", "evaluation/*/report.json")
_SAYS_NOTHING_OF_THE_METHOD = ("name", "seed", "storage", "tracking.")


@dataclass(frozen=True, slots=True)
class RunGroup:
    """One way of training, with a run or one for each of several seeds."""

    label: str
    metrics: tuple[Mapping[str, float], ...]  # of each run
    reports: tuple[Mapping[str, Path], ...] = ()  # of each run: benchmark -> the folder of its report

    @classmethod
    def of_run(cls, label: str, folder: str | Path) -> RunGroup:
        """One run that left its reports below a folder. Raises UserError as `run_groups_in`."""
        metrics, reports = _read_run(folder)
        return cls(label, (metrics,), (reports,))

    def values(self, metric: str) -> list[float]:
        return [own[metric] for own in self.metrics if metric in own]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return float(np.mean(values)) if values else None

    def per_query(self, benchmark: str) -> list[pa.Table]:
        """The per-query tables of a benchmark; none where a run has none."""
        files = [own[benchmark] / "per_query.parquet" for own in self.reports if benchmark in own]
        if not files or not all(file.exists() for file in files):
            return []
        try:
            return [pq.read_table(file) for file in files]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"a per_query.parquet of {self.label} is damaged ({error}); evaluate that model anew"
            ) from None

    def fingerprints(self, benchmark: str) -> set[str]:
        """Of what its runs were measured on under a benchmark's name."""
        files = [own[benchmark] / "report.json" for own in self.reports if benchmark in own]
        return {str(json.loads(file.read_bytes()).get("fingerprint")) for file in files}


def read_run_metrics(folder: str | Path) -> dict[str, float]:
    """The metrics that `write_report` left in a report's folder, or in the folder of a run over all its benchmarks.

    Raises:
        UserError: no report is there, or one cannot be read.
    """
    return _read_run(folder)[0]


def _read_run(folder: str | Path) -> tuple[dict[str, float], dict[str, Path]]:
    root = Path(folder).expanduser()
    paths = sorted(path for pattern in _REPORTS for path in root.glob(pattern))
    if not paths:
        raise UserError(f"there is no report in {str(root)!r}; evaluate a model into that folder first")
    metrics: dict[str, float] = {}
    reports: dict[str, Path] = {}
    for path in paths:
        try:
            report = json.loads(path.read_bytes())
            metrics |= {name: float(value) for name, value in report["metrics"].items()}
            reports[str(report.get("benchmark"))] = path.parent
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{str(path)!r} is not a report; evaluate the model anew") from None
    return metrics, reports


def run_groups_in(folders: Sequence[str]) -> list[RunGroup]:
    """The runs of some folders; those that differ in nothing but their seed are one contender.

    Raises:
        UserError: no report is in one of them, or one cannot be read.
    """
    places = [Path(folder).expanduser().resolve() for folder in folders]
    twice = next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is named twice; name each run once")
    return _by_method({folder: (_method(folder) or folder, *_read_run(folder)) for folder in folders})


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run that was tracked elsewhere."""

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    folder: Path | None = None  # where its reports lie, if it has any


def run_groups_of(runs: Mapping[str, Tracked]) -> list[RunGroup]:
    """Likewise of tracked runs, by their labels."""
    told = {}
    for label, run in runs.items():
        reported, reports = _read_run(run.folder) if run.folder else ({}, None)
        # A store has metrics under names of its own where it does not allow theirs.
        told[label] = (_key(run.params) if run.params else label, {**run.metrics, **reported}, reports)
    return _by_method(told)


def _by_method(
    runs: Mapping[str, tuple[str, Mapping[str, float], Mapping[str, Path] | None]],
) -> list[RunGroup]:
    """A contender for each method among runs: label -> (method, metrics, reports if there are any)."""
    methods: dict[str, list[str]] = {}
    for label, (method, _, _) in runs.items():
        methods.setdefault(method, []).append(label)
    contenders = []
    for labels in methods.values():
        first = labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more seeds"
        reports = [reports for label in labels if (reports := runs[label][2]) is not None]
        complete = tuple(reports) if len(reports) == len(labels) else ()
        contenders.append(RunGroup(first, tuple(runs[label][1] for label in labels), complete))
    return contenders


def _method(folder: str) -> str | None:
    """What a run was trained with, apart from its seed; None where the folder does not say."""
    file = Path(folder).expanduser() / "run.yaml"
    try:
        return _key(flatten(build_config(yaml.safe_load(file.read_text(encoding="utf-8")))))
    except (OSError, yaml.YAMLError, ConfigError):
        return None


def _key(settings: Mapping[str, object]) -> str:
    kept = {key: str(value) for key, value in settings.items() if not key.startswith(_SAYS_NOTHING_OF_THE_METHOD)}
    return json.dumps(kept, sort_keys=True)
