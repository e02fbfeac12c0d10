"""The page of a comparison: every headline metric, the paired tests, and where runs differ by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.compare.tables import (
    TestedDifference,
    differences,
    headline_metrics,
    interval_of,
    signed,
    title_of,
    verdict_of,
)
from hbt_ray.evaluation.method_difference import MethodDifference
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.evaluation.report import format_value, make_folder, read_report, report_errors
from hbt_ray.evaluation.report.settings import described_report
from hbt_ray.evaluation.retrieval_metrics import LEVELS, WORST_TENTH
from hbt_ray.evaluation.significance import CONFIDENCE, RESAMPLES, Difference, format_p
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.html_page import PAGE, Cell, Rows, heat_map, render_page, short_share

_FULL_COLOUR = 0.1  # the least difference of mAP that has the full colour, so that noise looks like noise


@dataclass(frozen=True, slots=True)
class _PageTable:
    """A table of the page."""

    title: str
    headings: list[str]
    rows: Rows
    kind: str = "numbers"


@dataclass(frozen=True, slots=True)
class _BenchmarkSection:
    """What the page shows of a benchmark."""

    name: str
    best: list[tuple[str, str, str]]  # heading, value and run
    metrics: _PageTable
    tests: _PageTable | None
    pairs: list[_PageTable]  # heat maps of mAP by languages
    by_language: list[_PageTable]


def write_comparison_page(
    groups: Sequence[RunGroup],
    folder: Path,
    *,
    title: str = "Comparison",
    tested: Sequence[TestedDifference] | None = None,
) -> Path:
    """Write `report.html` to a folder, which is made if needed: one file that loads nothing.

    Args:
        groups: the runs; all others are compared with the first.
        folder: of the page.
        title: of the page.
        tested: what `differences` returned for these groups; None: call it, which takes seconds.

    Returns:
        The file.

    Raises:
        UserError: two reports of one benchmark have different texts or judgements.
        StorageError: the folder cannot be written.
    """
    tested = differences(groups) if tested is None else tested
    headlines = headline_metrics(groups)
    text = render_page(
        "hbt_ray.evaluation",
        "comparison.html.jinja",
        title=title,
        groups=groups,
        sections=[
            _section(benchmark, [entry for entry in headlines if entry[0] == benchmark], groups, tested)
            for benchmark in dict.fromkeys(benchmark for benchmark, _, _ in headlines)
        ],
        runs=[(group.label, _described(group)) for group in groups],
        resamples=RESAMPLES,
        has_methods=any(one.methods for one in tested),
        is_grouped=any(one.models.is_grouped for one in tested),
        confidence=f"{CONFIDENCE:.0%}",
    )
    make_folder(folder)
    with report_errors(folder):
        atomic_write_text(folder / PAGE, text)
    return folder / PAGE


def _section(
    benchmark: str,
    headlines: Sequence[tuple[str, str, str]],
    groups: Sequence[RunGroup],
    tested: Sequence[TestedDifference],
) -> _BenchmarkSection:
    metrics = {metric: heading.removeprefix(f"{benchmark} ") for _, metric, heading in headlines}
    of_benchmark = [one for one in tested if one.metric in metrics]
    p_values = {
        (one.label, one.metric): f"the methods: p {format_p(one.p_of_methods)}; these models: p {_p_of_models(one)}"
        for one in of_benchmark
    }
    return _BenchmarkSection(
        title_of(benchmark, groups),
        [(heading, *_best(metric, groups)) for metric, heading in metrics.items()] if len(groups) > 1 else [],
        _PageTable(
            "",
            ["run", *(f"{heading} {_arrow(metric)}" for metric, heading in metrics.items())],
            [[group.label, *(_metric_cell(metric, group, groups, p_values) for metric in metrics)] for group in groups],
        ),
        _tests_table(groups, metrics, of_benchmark),
        list(_pair_maps(metrics, groups)),
        list(_language_tables(metrics, groups)),
    )


def _arrow(metric: str) -> str:
    return "↑" if find_metric(metric).higher_is_better else "↓"


def _best(metric: str, groups: Sequence[RunGroup]) -> tuple[str, str]:
    means = {group.label: mean for group in groups if (mean := group.mean(metric)) is not None}
    label = (max if find_metric(metric).higher_is_better else min)(means, key=lambda name: means[name])
    return format_value(metric, means[label]), label


def _metric_cell(
    metric: str, group: RunGroup, groups: Sequence[RunGroup], p_values: Mapping[tuple[str, str], str]
) -> Cell:
    mean = group.mean(metric)
    if mean is None:
        return Cell(text=format_value(metric, None))
    values = group.values(metric)
    shown = format_value(metric, mean)
    spread = f" ±{format_value(metric, float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    largest = max(abs(one.mean(metric) or 0.0) for one in groups) or 1.0
    p_value = p_values.get((group.label, metric))
    note = "" if p_value is None else f"against {groups[0].label}: {p_value}"
    is_best = len(groups) > 1 and shown == _best(metric, groups)[0]
    return Cell(text=shown + spread, note=note, is_best=is_best, bar=min(abs(mean) / largest, 1.0))


def _tests_table(
    groups: Sequence[RunGroup], metrics: Mapping[str, str], tested: Sequence[TestedDifference]
) -> _PageTable | None:
    """Return a row for each test, with its interval drawn on one scale for each metric; 0 is in the middle."""
    if not tested:
        return None
    labels = [group.label for group in groups]
    widest = dict.fromkeys(metrics, 0.0)
    for one in tested:
        for found in (one.models, one.methods or one.models):
            widest[one.metric] = max(widest[one.metric], *np.nan_to_num(np.abs([found.low, found.high])).tolist())
    rows: Rows = []
    for one in sorted(tested, key=lambda one: labels.index(one.label)):
        start = [one.label, metrics[one.metric]]
        rows.append(
            [*start, "models", *_test_cells(one.metric, one.models, one.p_of_models, _p_of_models(one), widest)]
        )
        if one.methods:
            p_value = format_p(one.p_of_methods)
            rows.append([*start, "methods", *_test_cells(one.metric, one.methods, one.p_of_methods, p_value, widest)])
    headings = ["run", "measure", "of", "difference", "95% interval", "p (Holm)", "verdict"]
    return _PageTable(f"Against {labels[0]}", headings, rows, "")


def _test_cells(
    metric: str,
    found: Difference | MethodDifference,
    p_value: float | None,
    shown_p: str,
    widest: Mapping[str, float],
) -> list[str | Cell]:
    drawn = None
    if np.isfinite(found.low):
        scale = widest[metric] or 1.0
        low, middle, high = (0.5 + 0.5 * value / scale for value in (found.low, found.mean, found.high))
        drawn = (low, middle, high)
    cell = Cell(text=signed(metric, found.mean), sort_by=found.mean, interval=drawn)
    return [cell, interval_of(metric, found), shown_p, verdict_of(metric, found.mean, p_value)]


def _p_of_models(one: TestedDifference) -> str:
    return format_p(one.p_of_models, at_floor=one.models.at_floor)


def _pair_maps(metrics: Mapping[str, str], groups: Sequence[RunGroup]) -> list[_PageTable]:
    """Return a heat map of mAP by languages of the first group, and of each other group's difference from it."""
    base = next((metric for metric in metrics if "/mono/map" in metric), None)
    languages = sorted({part for group in groups for part in _parts(base, group)}) if base else []
    if base is None or len(languages) < 2:
        return []
    maps = [_pair_matrix(base, languages, group) for group in groups]
    columns = [n for n in range(len(languages)) if any(not np.isnan(of_group[:, n]).all() for of_group in maps)]
    names = [languages[n] for n in columns]
    found = []
    for group, values in zip(groups, maps, strict=True):
        is_first = group is groups[0]
        shown = values[:, columns] if is_first else (values - maps[0])[:, columns]
        widest = (
            1.0 if is_first else max((abs(v) for v in np.ravel(shown) if abs(v) > _FULL_COLOUR), default=_FULL_COLOUR)
        )
        rows = heat_map(
            shown,
            rows=languages,
            columns=names,
            low=0.0 if is_first else -widest,
            high=widest,
            text_of=partial(short_share, sign=not is_first),
            note_of=lambda row, column, value: f"question {row}, passage {column}: {value:.4f}",
            diverging=not is_first,
        )
        title = f"mAP of {group.label}" if is_first else f"mAP of {group.label} minus {groups[0].label}"
        found.append(_PageTable(title, ["question ↓ passage →", *names], rows, "heat"))
    return found


def _parts(metric: str, group: RunGroup) -> set[str]:
    """Return the languages, or pairs of them, for which a group has a metric."""
    start = f"{metric}/"
    return {
        name.removeprefix(start)
        for of_run in group.metrics
        for name in of_run
        if name.startswith(start) and not name.endswith((*LEVELS, WORST_TENTH))
    }


def _pair_matrix(base: str, languages: Sequence[str], group: RunGroup) -> np.ndarray:
    """Return mAP (languages, languages) by question and passage language, NaN where there is none."""
    across = base.replace("/mono/", "/cross/", 1)
    names = [
        [f"{base}/{one}" if one == other else f"{across}/{one}-{other}" for other in languages] for one in languages
    ]
    return np.array([[np.nan if (mean := group.mean(name)) is None else mean for name in of_row] for of_row in names])


def _language_tables(metrics: Mapping[str, str], groups: Sequence[RunGroup]) -> list[_PageTable]:
    """Return a table by question language for each headline metric of the pool of all languages."""
    found = []
    for metric, heading in metrics.items():
        languages = sorted({part for group in groups for part in _parts(metric, group)})
        if "/multi/" not in metric or len(languages) < 2:
            continue
        values = np.array(
            [
                [np.nan if (mean := group.mean(f"{metric}/{language}")) is None else mean for group in groups]
                for language in languages
            ]
        )
        largest = float(np.nanmax(values)) or 1.0
        rows: Rows = [
            [
                language,
                *(
                    Cell(text="–") if np.isnan(value) else Cell(text=format_value(metric, value), bar=value / largest)
                    for value in of_language
                ),
            ]
            for language, of_language in zip(languages, values.tolist(), strict=True)
        ]
        title = f"{heading} {_arrow(metric)}"
        found.append(_PageTable(title, ["question language", *(group.label for group in groups)], rows))
    return found


def _described(group: RunGroup) -> list[tuple[str, str]]:
    """Describe the runs of a group: seeds, and what their reports say of model, settings and data."""
    described = [("runs", str(len(group.metrics)))] if len(group.metrics) > 1 else []
    reports = [read_report(folder) for of_run in group.reports[:1] for folder in of_run.values()]
    return described + [entry for report in reports for entry in described_report(report)]
