"""Tables of several runs: their metrics, the spread over seeds, and the significance of differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hbt_ray.errors import UserError
from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.evaluation.report import format_value, headlines
from hbt_ray.evaluation.significance import LEVEL, Difference, compare_queries, holm
from hbt_ray.utils.progress import track

# (label, full name of the metric, heading, difference, p-value corrected by Holm over all of a comparison)
TestedDifference = tuple[str, str, str, Difference, float]


def headline_metrics(groups: Sequence[RunGroup]) -> list[tuple[str, str, str]]:
    """Return (benchmark, full name, heading) of each headline metric; depths (`map@1000`) are separate metrics."""
    names = dict.fromkeys(name for group in groups for of_run in group.metrics for name in of_run)
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name in names:
        benchmark, setting, metric, *part = *name.split("/"), "", ""
        candidates = ((setting, metric), (setting, metric.partition("@")[0]))
        headline = next((one for one in candidates if one in headlines(benchmark)), None)
        if headline and not any(part):
            found.setdefault(benchmark, {}).setdefault(headline, []).append(name)
    return [
        (benchmark, name, " ".join(([benchmark] if len(found) > 1 else []) + [heading, *_depth(name, heading)]))
        for benchmark, of_benchmark in found.items()
        for headline, heading in headlines(benchmark).items()
        for name in of_benchmark.get(headline, ())
    ]


def _depth(name: str, heading: str) -> list[str]:
    """Return the depth of an approximate index as part of a heading."""
    depth = name.partition("@")[2]
    return [f"@{depth}"] if depth and not heading.endswith(f"@{depth}") else []


def comparison_table(groups: Sequence[RunGroup], tested: Sequence[TestedDifference] = ()) -> Table:
    """Build a table of the headline metrics of each group, the best of each column bold. It fits 80 columns.

    A group of several seeds has their mean and standard deviation.

    Args:
        groups: one row each.
        tested: what `differences` returned for them; their p-values are in the cells.
    """
    headlines = headline_metrics(groups)
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _, _ in headlines))
    table = Table(title=benchmarks[0] if len(benchmarks) == 1 else None, box=SIMPLE_HEAD, pad_edge=False)
    p_values = {(label, metric): p_value for label, metric, _, _, p_value in tested}
    if p_values:
        table.caption = f"p: of the difference from {groups[0].label} (randomisation test over queries, Holm)"
        table.caption_justify = "left"
    table.add_column("run", overflow="fold")
    for _, _, heading in headlines:
        table.add_column(heading, justify="right", no_wrap=True)
    best = {metric: _best(metric, groups) for _, metric, _ in headlines}
    for group in groups:
        cells = []
        for _, metric, _ in headlines:
            shown = format_value(metric, group.mean(metric))
            # Runs with the same rounded value are marked alike.
            mark = best[metric] is not None and shown == format_value(metric, best[metric])
            values = group.values(metric)
            spread = f" ±{format_value(metric, float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
            p_value = p_values.get((group.label, metric))
            note = "" if p_value is None else f" p {p_value:.4f}".replace(" 0.", " .")
            cells.append((f"[bold]{shown}[/bold]" if mark else shown) + spread + note)
        table.add_row(group.label, *cells)
    return table


def _best(metric: str, groups: Sequence[RunGroup]) -> float | None:
    """Return the best mean; None where there are fewer than two."""
    means = [mean for group in groups if (mean := group.mean(metric)) is not None]
    if len(means) < 2:
        return None
    return max(means) if find_metric(metric).higher_is_better else min(means)


def differences(groups: Sequence[RunGroup]) -> list[TestedDifference]:
    """Test every headline metric of every group against the first group's, where both have per-query tables.

    Raises:
        UserError: two reports of one benchmark have different texts or judgements.
    """
    first, *others = groups
    found = []
    headlines = headline_metrics(groups)
    tables: dict[str, list[list[pa.Table]]] = {}  # of each benchmark, by group
    for benchmark in dict.fromkeys(benchmark for benchmark, _, _ in headlines):
        tables[benchmark] = [group.per_query(benchmark) for group in groups]
        for group, of_group in zip(others, tables[benchmark][1:], strict=True):
            if tables[benchmark][0] and of_group:
                _check_same(benchmark, first, group)
    for benchmark, metric, heading in track(headlines, "testing differences", "metrics"):
        within_benchmark = metric.partition("/")[2]
        one, *rest = tables[benchmark]
        for group, other in zip(others, rest, strict=True):
            if one and other:
                found.append((group.label, metric, heading, compare_queries(one, other, within_benchmark)))
    corrected = holm([difference.p_value for *_, difference in found])
    return [(*entry, p_value) for entry, p_value in zip(found, corrected, strict=True)]


def _check_same(benchmark: str, one: RunGroup, other: RunGroup) -> None:
    if len(one.fingerprints(benchmark) | other.fingerprints(benchmark)) > 1:
        raise UserError(
            f"{one.label} and {other.label} were not evaluated on the same {benchmark}: its texts or judgements "
            "differ; evaluate them on the same files"
        )


def significance_tables(groups: Sequence[RunGroup], tested: Sequence[TestedDifference]) -> list[Table]:
    """Build a table for each group that was tested against the first; each fits 80 columns.

    Args:
        groups: the runs.
        tested: what `differences` returned for them.
    """
    tables = []
    for group in groups[1:]:
        of_group = [entry for entry in tested if entry[0] == group.label]
        table = Table(
            title=f"{group.label} against {groups[0].label}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        for heading in ("metric", "difference", "95% interval", "p (Holm)", ""):
            justify: Literal["left", "right"] = "left" if heading in {"metric", ""} else "right"
            table.add_column(heading, justify=justify, no_wrap=heading != "metric")
        for _, metric, heading, difference, p_value in of_group:
            shown = [_signed(metric, value) for value in (difference.mean, difference.low, difference.high)]
            verdict = verdict_of(metric, difference, p_value)
            table.add_row(heading, shown[0], f"{shown[1]} to {shown[2]}", f"{p_value:.4f}", verdict)
        tables += [table] if of_group else []
    return tables


def verdict_of(metric: str, difference: Difference, p_value: float) -> str:
    """Return what a test shows: better, worse, or no difference."""
    if p_value >= LEVEL:
        return "not shown"
    return "better" if (difference.mean > 0) == find_metric(metric).higher_is_better else "worse"


def _signed(metric: str, value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{format_value(metric, abs(value))}"
