"""Tables of several runs: their metrics, the spread over seeds, and the significance of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hbt_ray.data.types import benchmark_title
from hbt_ray.errors import UserError
from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.method_difference import MethodDifference, compare_methods
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.evaluation.per_query import PerQueryContributions, mean_of, query_sum
from hbt_ray.evaluation.report import format_value, headlines
from hbt_ray.evaluation.significance import LEVEL, Difference, format_p, holm, randomisation_test
from hbt_ray.utils.progress import track

_P = "the probability of such a difference by chance, corrected for all tests (Holm)"
_ONLY_MODELS = (
    "This tests these models, on other questions. To test how they were trained takes two or more seeds of each, and "
    "questions that are independent."
)
_GROUPED = "A report is of an earlier version: only translations of a question count as dependent."


@dataclass(frozen=True, slots=True)
class TestedDifference:
    """A group of runs minus the first group, by one metric. P-values are corrected by Holm over all of a comparison."""

    label: str
    metric: str  # its full name
    heading: str
    models: Difference  # of these models, each query with its mean over the seeds
    p_of_models: float
    methods: MethodDifference | None  # over the seeds that both have; None: not known, as with one seed or cluster
    p_of_methods: float | None


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


def title_of(benchmark: str, groups: Sequence[RunGroup]) -> str:
    """Return the name of a benchmark with the splits of its reports."""
    return benchmark_title(benchmark, *sorted({split for group in groups for split in group.splits(benchmark)}))


def _depth(name: str, heading: str) -> list[str]:
    """Return the depth of an approximate index as part of a heading."""
    depth = name.partition("@")[2]
    return [f"@{depth}"] if depth and not heading.endswith(f"@{depth}") else []


def comparison_table(groups: Sequence[RunGroup], tested: Sequence[TestedDifference] = ()) -> Table:
    """Build a table of the headline metrics of each group, the best of each column bold. It fits 80 columns.

    A group of several seeds has their mean and standard deviation.

    Args:
        groups: one row each.
        tested: what `differences` returned for them; the p-values of these models are in the cells.
    """
    headlines = headline_metrics(groups)
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _, _ in headlines))
    table = Table(title=", ".join(title_of(one, groups) for one in benchmarks), box=SIMPLE_HEAD, pad_edge=False)
    p_values = {(one.label, one.metric): format_p(one.p_of_models, at_floor=one.models.at_floor) for one in tested}
    if p_values:
        table.caption = f"p: against {groups[0].label}, {_P}."
        table.caption += "" if any(one.methods for one in tested) else f"\n{_ONLY_MODELS}"
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
            note = "" if p_value is None else f" p {p_value}".replace(" 0.", " .").replace(" ≤ ", "≤")
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
    """Test every headline metric of every group against the first group's, where both have it and per-query tables.

    Metrics of different depths, exact and of an approximate index, are not tested against each other.

    Raises:
        UserError: two reports of one benchmark have different texts or judgements.
    """
    first, *others = groups
    tested: list[TestedDifference] = []
    headlines = headline_metrics(groups)
    tables: dict[str, list[list[pa.Table]]] = {}  # of each benchmark, by group
    for benchmark in dict.fromkeys(benchmark for benchmark, _, _ in headlines):
        tables[benchmark] = [group.per_query(benchmark) for group in groups]
        for group, of_group in zip(others, tables[benchmark][1:], strict=True):
            if tables[benchmark][0] and of_group:
                _check_same(benchmark, first, group)
    for benchmark, metric, heading in track(headlines, "testing differences", "metrics"):
        name = metric.partition("/")[2]
        of_first, *rest = tables[benchmark]
        one = [query_sum(table, name) for table in of_first] if any(rest) else []
        for group, of_group in zip(others, rest, strict=True):
            if one and of_group and first.has(benchmark, metric) and group.has(benchmark, metric):
                other = [query_sum(table, name) for table in of_group]
                models = randomisation_test(mean_of(other) - mean_of(one))
                methods = compare_methods(_by_shared_seed(benchmark, first, one, group, other))
                p_of_methods = methods.p_value if methods else None
                tested.append(
                    TestedDifference(group.label, metric, heading, models, models.p_value, methods, p_of_methods)
                )
    return _corrected(tested)


def _by_shared_seed(
    benchmark: str,
    first: RunGroup,
    one: Sequence[PerQueryContributions],
    group: RunGroup,
    other: Sequence[PerQueryContributions],
) -> list[PerQueryContributions]:
    """Return the differences of the runs with equal seeds; one fixed model is compared with every run.

    A fixed model has no seed and no chance in a training here: with another seed, a trained one would be another model.
    """
    of_first, of_group = (
        dict(zip(g.seeds_on(benchmark), sums, strict=True)) for g, sums in ((first, one), (group, other))
    )
    if len(one) == 1 and None in of_first and not first.is_of_training(benchmark):
        return [sums - one[0] for seed, sums in of_group.items() if seed is not None]
    if len(other) == 1 and None in of_group and not group.is_of_training(benchmark):
        return [other[0] - sums for seed, sums in of_first.items() if seed is not None]
    return [of_group[seed] - of_first[seed] for seed in of_first if seed is not None and seed in of_group]


def _corrected(tested: Sequence[TestedDifference]) -> list[TestedDifference]:
    """Correct the p-values by Holm, those of models and those of methods as two families."""
    of_models = holm([one.p_of_models for one in tested])
    of_methods = iter(holm([one.p_of_methods for one in tested if one.p_of_methods is not None]))
    return [
        replace(one, p_of_models=p, p_of_methods=None if one.p_of_methods is None else next(of_methods))
        for one, p in zip(tested, of_models, strict=True)
    ]


def _check_same(benchmark: str, one: RunGroup, other: RunGroup) -> None:
    if len(one.fingerprints(benchmark) | other.fingerprints(benchmark)) > 1:
        splits = sorted(one.splits(benchmark) | other.splits(benchmark))
        names = " and ".join(split or "the default one" for split in splits)
        raise UserError(
            f"{one.label} and {other.label} were not evaluated on the same {benchmark}: "
            + (
                f"their splits differ, {names}; evaluate one of them again with --split {splits[-1]}"
                if len(splits) > 1
                else "its texts or judgements differ; evaluate them on the same files"
            )
        )


def significance_tables(groups: Sequence[RunGroup], tested: Sequence[TestedDifference]) -> list[Table]:
    """Build a table for each group that was tested against the first; each fits 80 columns.

    Args:
        groups: the runs.
        tested: what `differences` returned for them.
    """
    tables = []
    for group in groups[1:]:
        of_group = [one for one in tested if one.label == group.label]
        if not of_group:
            continue
        seeds = {len(one.methods.by_seed) for one in of_group if one.methods}
        caption = [f"p: {_P}; unclear: p is {LEVEL} or more."]
        if seeds:
            caption += ["models: whether these models differ on other questions too"]
            caption += [f"methods: with other seeds too, by the {min(seeds)} seeds that both have"]
        else:
            caption += [_ONLY_MODELS]
        caption += [_GROUPED] if any(one.models.is_grouped for one in of_group) else []
        table = Table(
            title=f"{group.label} against {groups[0].label}",
            title_justify="left",
            caption="\n".join(caption),
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        of_what = ["of"] if seeds else []  # without methods, all rows are of the models, as the caption says
        for heading in ("metric", *of_what, "difference", "95% interval", "p (Holm)", ""):
            table.add_column(heading, justify="left" if heading in {"metric", "of", ""} else "right")
        for one in of_group:
            p_value = format_p(one.p_of_models, at_floor=one.models.at_floor)
            of_models = _test_cells(one.metric, one.models, one.p_of_models, p_value)
            table.add_row(one.heading, *(["models"] if seeds else []), *of_models)
            if one.methods:
                p_value = format_p(one.p_of_methods)
                table.add_row("", "methods", *_test_cells(one.metric, one.methods, one.p_of_methods, p_value))
        tables.append(table)
    return tables


def _test_cells(
    metric: str, found: Difference | MethodDifference, p_value: float | None, shown_p: str
) -> tuple[str, str, str, str]:
    mean = signed(metric, found.mean)
    return mean, interval_of(metric, found), shown_p, verdict_of(metric, found.mean, p_value)


def verdict_of(metric: str, mean: float, p_value: float | None) -> str:
    """Return what a test shows of a mean difference: better, worse, that it is unclear, or not known."""
    if p_value is None:
        return "not known"
    if p_value >= LEVEL:
        return "unclear"
    return "better" if (mean > 0) == find_metric(metric).higher_is_better else "worse"


def interval_of(metric: str, difference: Difference | MethodDifference) -> str:
    """Return the 95% interval of a difference as text."""
    if not np.isfinite(difference.low):
        return "not known"
    return f"{signed(metric, difference.low)} to {signed(metric, difference.high)}"


def signed(metric: str, value: float) -> str:
    """Format a difference with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{format_value(metric, abs(value))}"
