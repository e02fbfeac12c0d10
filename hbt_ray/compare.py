"""Runs side by side: what each measures, how far its seeds lie apart, and which differences are more than chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.table import Table

from hbt_ray.config import build_config, flatten
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.metrics import measure_of
from hbt_ray.report import formatted, headlines
from hbt_ray.significance import Difference, compare_queries, holm

# Where reports stand: in the folder itself, in one for each benchmark, in a training run's folder.
_REPORTS = ("report.json", "*/report.json", "evaluation/*/report.json")
_SAYS_NOTHING_OF_THE_METHOD = ("name", "seed", "storage", "tracking.")
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of training, with a run or one for each of several seeds."""

    label: str
    metrics: tuple[Mapping[str, float], ...]  # of each run
    reports: tuple[Mapping[str, Path], ...] = ()  # of each run: benchmark -> the folder of its report

    @classmethod
    def of_run(cls, label: str, folder: str | Path) -> Contender:
        """One run that left its reports below a folder. Raises UserError as `contenders_in`."""
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


def contenders_in(folders: Sequence[str]) -> list[Contender]:
    """The runs of some folders; those that differ in nothing but their seed are one contender.

    Raises:
        UserError: no report is in one of them, or one cannot be read.
    """
    runs: dict[str, list[str]] = {}
    places = [Path(folder).expanduser().resolve() for folder in folders]
    twice = next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is named twice; name each run once")
    for folder in folders:
        runs.setdefault(_method(folder) or folder, []).append(folder)
    contenders = []
    for members in runs.values():
        read = [_read_run(folder) for folder in members]
        contenders.append(
            Contender(_label(members), tuple(own for own, _ in read), tuple(reports for _, reports in read))
        )
    return contenders


def contenders_of(runs: Mapping[str, tuple[Mapping[str, str], Mapping[str, float]]]) -> list[Contender]:
    """Likewise of tracked runs: label -> (parameters, metrics)."""
    methods: dict[str, list[str]] = {}
    for label, (params, _) in runs.items():
        methods.setdefault(_key(params) if params else label, []).append(label)
    return [Contender(_label(labels), tuple(runs[label][1] for label in labels)) for labels in methods.values()]


def _label(runs: Sequence[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more seeds"


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


def _headlines(contenders: Sequence[Contender]) -> list[tuple[str, str, str]]:
    """(benchmark, metric, heading) of each number by which these can be compared; depths (`map@1000`) stay apart."""
    names = dict.fromkeys(name for contender in contenders for own in contender.metrics for name in own)
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name in names:
        benchmark, setting, measure, *part = *name.split("/"), "", ""
        wanted = headlines(benchmark)
        headline = next(
            (own for own in ((setting, measure), (setting, measure.partition("@")[0])) if own in wanted), None
        )
        if headline and not any(part):
            found.setdefault(benchmark, {}).setdefault(headline, []).append(name)
    return [
        (benchmark, metric, " ".join(([benchmark] if len(found) > 1 else []) + [heading, *_depth(metric, heading)]))
        for benchmark, own in found.items()
        for headline, heading in headlines(benchmark).items()
        for metric in own.get(headline, ())
    ]


def _depth(metric: str, heading: str) -> list[str]:
    depth = metric.partition("@")[2]
    return [f"@{depth}"] if depth and not heading.endswith(f"@{depth}") else []


def comparison_table(contenders: Sequence[Contender]) -> Table:
    """Mono, cross and multi mAP and rank distance side by side, the best of each column bold.

    Where a contender has several seeds: their mean and standard deviation.
    """
    headlines = _headlines(contenders)
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _, _ in headlines))
    table = Table(title=benchmarks[0] if len(benchmarks) == 1 else None)
    table.add_column("run")
    for _, _, heading in headlines:
        table.add_column(heading, justify="right")
    best = {metric: _best(metric, contenders) for _, metric, _ in headlines}
    for contender in contenders:
        cells = []
        for _, metric, _ in headlines:
            shown = formatted(metric, contender.mean(metric))
            # Runs that look the same are marked the same: what the table rounds away is no difference to it.
            mark = best[metric] is not None and shown == formatted(metric, best[metric])
            values = contender.values(metric)
            spread = f" ±{formatted(metric, float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
            cells.append((f"[bold]{shown}[/bold]" if mark else shown) + spread)
        table.add_row(contender.label, *cells)
    return table


def _best(metric: str, contenders: Sequence[Contender]) -> float | None:
    """The best mean; None where there is nothing to compare."""
    means = [mean for contender in contenders if (mean := contender.mean(metric)) is not None]
    if len(means) < 2:
        return None
    return max(means) if measure_of(metric).higher_is_better else min(means)


def differences(contenders: Sequence[Contender]) -> list[tuple[str, str, str, Difference, float]]:
    """Every headline of every contender against the first one's, where both have per-query tables.

    Returns:
        (contender, metric, heading, difference, p-value corrected by Holm over all that are returned).

    Raises:
        UserError: two reports of one benchmark are not of the same texts and judgements.
    """
    first, *others = contenders
    found = []
    tables: dict[tuple[int, str], list[pa.Table]] = {}
    for benchmark, metric, heading in _headlines(contenders):
        _, setting, measure = metric.split("/")
        column = measure_of(f"{benchmark}/{setting}/{measure}").column
        for number, contender in enumerate((first, *others)):
            tables.setdefault((number, benchmark), contender.per_query(benchmark))
        for number, contender in enumerate(others, start=1):
            one, other = tables[0, benchmark], tables[number, benchmark]
            if one and other:
                _check_same(benchmark, first, contender)
                found.append((contender.label, metric, heading, compare_queries(one, other, setting, column)))
    corrected = holm([difference.p_value for *_, difference in found])
    return [(*entry, p_value) for entry, p_value in zip(found, corrected, strict=True)]


def _check_same(benchmark: str, one: Contender, other: Contender) -> None:
    if len(one.fingerprints(benchmark) | other.fingerprints(benchmark)) > 1:
        raise UserError(
            f"{one.label} and {other.label} were not measured on the same {benchmark}: its texts or judgements differ; "
            "evaluate them on the same files"
        )


def significance_table(contenders: Sequence[Contender]) -> Table | None:
    """What `differences` finds, in words; None where nothing can be compared query by query."""
    found = differences(contenders) if len(contenders) > 1 else []
    if not found:
        return None
    table = Table(title=f"against {contenders[0].label}")
    for heading in ("run", "measure", "difference", "95% interval", "p (Holm)", ""):
        words = heading in {"run", "measure", ""}
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=heading != "run")
    labels = [contender.label for contender in contenders]
    for label, metric, heading, difference, p_value in sorted(found, key=lambda entry: labels.index(entry[0])):
        better = (difference.mean > 0) == measure_of(metric).higher_is_better
        verdict = ("better" if better else "worse") if p_value < LEVEL else "no difference shown"
        shown = [_signed(metric, value) for value in (difference.mean, difference.low, difference.high)]
        table.add_row(label, heading, shown[0], f"{shown[1]} to {shown[2]}", f"{p_value:.4f}", verdict)
    return table


def _signed(metric: str, value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{formatted(metric, abs(value))}"
