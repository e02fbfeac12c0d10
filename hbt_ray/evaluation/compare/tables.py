"""Runs side by side: what each measures, how far its seeds lie apart, and which differences are more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from rich.table import Table

from hbt_ray.errors import UserError
from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.evaluation.report import formatted, headlines
from hbt_ray.evaluation.significance import LEVEL, Difference, compare_queries, holm


def headline_metrics(contenders: Sequence[RunGroup]) -> list[tuple[str, str, str]]:
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


def comparison_table(contenders: Sequence[RunGroup]) -> Table:
    """Mono, cross and multi mAP and rank distance side by side, the best of each column bold.

    Where a contender has several seeds: their mean and standard deviation.
    """
    headlines = headline_metrics(contenders)
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


def _best(metric: str, contenders: Sequence[RunGroup]) -> float | None:
    """The best mean; None where there is nothing to compare."""
    means = [mean for contender in contenders if (mean := contender.mean(metric)) is not None]
    if len(means) < 2:
        return None
    return max(means) if find_metric(metric).higher_is_better else min(means)


def differences(contenders: Sequence[RunGroup]) -> list[tuple[str, str, str, Difference, float]]:
    """Every headline of every contender against the first one's, where both have per-query tables.

    Returns:
        (contender, metric, heading, difference, p-value corrected by Holm over all that are returned).

    Raises:
        UserError: two reports of one benchmark are not of the same texts and judgements.
    """
    first, *others = contenders
    found = []
    headlines = headline_metrics(contenders)
    tables: dict[str, list[list[pa.Table]]] = {}  # of each benchmark, by contender
    for benchmark in dict.fromkeys(benchmark for benchmark, _, _ in headlines):
        tables[benchmark] = [contender.per_query(benchmark) for contender in contenders]
        for contender, own in zip(others, tables[benchmark][1:], strict=True):
            if tables[benchmark][0] and own:
                _check_same(benchmark, first, contender)
    for benchmark, metric, heading in headlines:
        of_benchmark = metric.partition("/")[2]
        one, *rest = tables[benchmark]
        for contender, other in zip(others, rest, strict=True):
            if one and other:
                found.append((contender.label, metric, heading, compare_queries(one, other, of_benchmark)))
    corrected = holm([difference.p_value for *_, difference in found])
    return [(*entry, p_value) for entry, p_value in zip(found, corrected, strict=True)]


def _check_same(benchmark: str, one: RunGroup, other: RunGroup) -> None:
    if len(one.fingerprints(benchmark) | other.fingerprints(benchmark)) > 1:
        raise UserError(
            f"{one.label} and {other.label} were not measured on the same {benchmark}: its texts or judgements differ; "
            "evaluate them on the same files"
        )


def significance_table(contenders: Sequence[RunGroup]) -> Table | None:
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
        better = (difference.mean > 0) == find_metric(metric).higher_is_better
        verdict = ("better" if better else "worse") if p_value < LEVEL else "no difference shown"
        shown = [_signed(metric, value) for value in (difference.mean, difference.low, difference.high)]
        table.add_row(label, heading, shown[0], f"{shown[1]} to {shown[2]}", f"{p_value:.4f}", verdict)
    return table


def _signed(metric: str, value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{formatted(metric, abs(value))}"
