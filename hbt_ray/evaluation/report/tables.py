"""A report's numbers as a person reads them: headings, formats, tables in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import METRICS, SETTINGS, Metric, display_name, find_metric
from hbt_ray.evaluation.retrieval_metrics import LEVELS

# Benchmarks whose passages are judged language by language: their authors report other numbers first.
_JUDGED_POOLS = ("miracl", "mrtydi", "beir", "mldr")


def headlines(benchmark: str) -> dict[tuple[str, str], str]:
    """Return (setting, metric) -> heading of the numbers by which runs are compared on a benchmark."""
    of_judged_pools = [(setting, metric.name) for metric in METRICS.values() for setting in metric.judged_pool_headline]
    of_all = [(setting, metric.name) for metric in METRICS.values() for setting in metric.headline]
    chosen = (of_judged_pools if benchmark.startswith(_JUDGED_POOLS) else []) + of_all
    return {(setting, name): display_name(f"{setting}/{name}") for setting, name in chosen}


def print_report(report: EvalReport, console: Console | None = None) -> None:
    """Prints every measure in the three settings, and mAP and rank distance of each language."""
    console = console or Console()
    console.print(_measures_table(report), _languages_table(report))
    console.print(
        f"{report.counts['queries']:,} queries, {report.counts['passages']:,} passages; "
        f"embedded in {report.embed_seconds:.1f} s, ranked in {report.rank_seconds:.1f} s",
        highlight=False,
    )
    if report.dimensions is not None:
        console.print(dimensions_line(report), highlight=False)
    if report.index_recall:
        console.print(recall_line(report), highlight=False)
    for reason, number in sorted(Counter(reject.reason for reject in report.rejects).items()):
        console.print(f"{number:,} times: {reason} (listed in rejects.jsonl)", highlight=False)


def dimensions_line(report: EvalReport) -> str:
    """That vectors were not whole."""
    return f"vectors are cut to their first {report.dimensions} dimensions"


def recall_line(report: EvalReport) -> str:
    """What the approximate index finds."""
    of_languages = [(recall, language) for language, recall in report.index_recall.items() if language != "all"]
    worst, language = min(of_languages)
    return (
        f"the index finds {report.index_recall['all']:.1%} of the exact first 10 among all passages, "
        f"{worst:.1%} in {language}, where it finds least"
    )


def formatted(metric: str, value: float | None) -> str:
    """A metric's value as a table shows it."""
    if value is None:
        return "–"
    return f"{value:.4f}" if find_metric(metric).unit == "share" else f"{value:,.1f}"


def _measures_table(report: EvalReport) -> Table:
    table = Table(title=report.benchmark)
    table.add_column("measure")
    for setting in SETTINGS:
        table.add_column(setting, justify="right")
    for measure, values in measure_rows(report):
        shown = measure.name_at(report.depth).replace("_", " ")
        table.add_row(f"{shown} {'↑' if measure.higher_is_better else '↓'}", *values)
    return table


def _languages_table(report: EvalReport) -> Table:
    table = Table(title="by question language")
    headings, rows = language_rows(report)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for row in rows:
        table.add_row(*row)
    return table


def measure_rows(report: EvalReport) -> Iterator[tuple[Metric, list[str]]]:
    """Each measure that the report has, and its values in the settings as a table shows them."""
    for measure in METRICS.values():
        names = [report.metric(setting, measure.name) for setting in SETTINGS]
        if any(name in report.metrics for name in names):
            yield measure, [formatted(name, report.metrics.get(name)) for name in names]


def language_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Headline numbers of each question language, and of those with few, some and many resources, as tables show them.

    Returns:
        headings and rows; a number that no language has is left out.
    """
    levels = [level for level in LEVELS if report.metric("multi", "map", level) in report.metrics]
    values = {language: _language_values(report, language) for language in query_languages(report)}
    values |= {
        level: {
            headline: report.metrics.get(report.metric(*headline, level)) for headline in headlines(report.benchmark)
        }
        for level in levels
    }
    shown = {
        headline: heading
        for headline, heading in headlines(report.benchmark).items()
        if any(own[headline] is not None for own in values.values())
    }
    rows = [
        [part, *(formatted(f"/{setting}/{measure}", own[setting, measure]) for setting, measure in shown)]
        for part, own in values.items()
    ]
    return ["language", *shown.values()], rows


def query_languages(report: EvalReport) -> list[str]:
    """The languages in which questions are asked."""
    return [language for language in report.languages if report.metric("multi", "map", language) in report.metrics]


def _language_values(report: EvalReport, language: str) -> dict[tuple[str, str], float | None]:
    """The headline numbers of one question language; cross is the mean over passage languages."""
    values = {
        (setting, measure): report.metrics.get(report.metric(setting, measure, language))
        for setting, measure in headlines(report.benchmark)
    }
    place = report.languages.index(language)
    others = np.delete(report.matrix[place], place)
    others = others[~np.isnan(others)]
    return values | {("cross", "map"): float(others.mean()) if len(others) else None}
