"""A report's numbers for people: headings, formats, tables in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.language_gap import GAP_METRICS
from hbt_ray.evaluation.metrics import GAP, METRICS, SETTINGS, Metric, display_name, find_metric
from hbt_ray.evaluation.retrieval_metrics import LEVELS, WORST_TENTH
from hbt_ray.utils.terminal_table import print_tables

# Benchmarks whose passages are judged language by language: their authors report other numbers first.
_JUDGED_POOLS = ("miracl", "mrtydi", "beir", "mldr")


def headlines(benchmark: str) -> dict[tuple[str, str], str]:
    """Return (setting, metric) -> heading of the numbers by which runs are compared on a benchmark."""
    of_judged_pools = [(setting, metric.name) for metric in METRICS.values() for setting in metric.judged_pool_headline]
    of_all = [(setting, metric.name) for metric in METRICS.values() for setting in metric.headline]
    chosen = (of_judged_pools if benchmark.startswith(_JUDGED_POOLS) else []) + of_all
    return {(setting, name): display_name(f"{setting}/{name}") for setting, name in chosen}


def print_report(report: EvalReport, console: Console | None = None) -> None:
    """Print every metric in the three settings, the gap, and the headline metrics of each language."""
    console = console or Console()
    tables = [_metrics_table(report), _table(f"{GAP}: mono less cross", gap_rows(report))]
    tables.append(_table("by question language", language_rows(report)))
    print_tables([table for table in tables if table.row_count], console)

    def print_sentence(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=not console.is_terminal)

    print_sentence(
        f"{report.counts['queries']:,} queries, {report.counts['passages']:,} passages; "
        f"embedded in {report.embed_seconds:.1f} s, ranked in {report.rank_seconds:.1f} s",
    )
    for warning in report.warnings:
        print_sentence(f"warning: {warning}", style="bold red")
    for note in report.notes:
        print_sentence(note)
    if report.dimensions is not None:
        print_sentence(dimensions_line(report))
    if report.index_recall:
        print_sentence(recall_line(report))
    for reason, number in sorted(Counter(reject.reason for reject in report.rejects).items()):
        print_sentence(f"{number:,} times: {reason} (listed in rejects.jsonl)")


def dimensions_line(report: EvalReport) -> str:
    """Return the sentence that vectors are truncated."""
    return f"vectors are cut to their first {report.dimensions} dimensions"


def recall_line(report: EvalReport) -> str:
    """Return the sentence about the recall of the approximate index."""
    by_language = [(recall, language) for language, recall in report.index_recall.items() if language != "all"]
    worst, language = min(by_language)
    return (
        f"the index finds {report.index_recall['all']:.1%} of the exact first 10 among all passages, "
        f"{worst:.1%} in {language}, where it finds least"
    )


def format_value(metric: str, value: float | None) -> str:
    """Format a metric's value for a table."""
    if value is None:
        return "–"
    return f"{value:.4f}" if find_metric(metric).unit == "share" else f"{value:,.1f}"


def _metrics_table(report: EvalReport) -> Table:
    table = Table(title=report.title)
    table.add_column("measure")
    for setting in SETTINGS:
        table.add_column(setting, justify="right")
    for metric, values in metric_rows(report):
        name = metric.name_at(report.depth).replace("_", " ")
        table.add_row(f"{name} {'↑' if metric.higher_is_better else '↓'}", *values)
    return table


def _table(title: str, content: tuple[list[str], list[list[str]]]) -> Table:
    table = Table(title=title)
    headings, rows = content
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for row in rows:
        table.add_row(*row)
    return table


def metric_rows(report: EvalReport) -> Iterator[tuple[Metric, list[str]]]:
    """Yield each metric of the report with its formatted values in the settings."""
    for metric in METRICS.values():
        names = [report.metric(setting, metric.name) for setting in SETTINGS]
        if any(name in report.metrics for name in names):
            yield metric, [format_value(name, report.metrics.get(name)) for name in names]


def gap_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Format mono less cross, with its interval: headings, and a row for each metric of which it is reported."""
    names = {report.metric(GAP, metric): METRICS[metric].display for metric in GAP_METRICS}
    rows = [
        [
            display,
            format_value(name, report.metrics[name]),
            " to ".join(f"{x:.4f}" for x in report.intervals.get(name, ())) or "not known",
        ]
        for name, display in names.items()
        if name in report.metrics
    ]
    return ["of", "mono less cross", "95% interval"], rows


def language_rows(report: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Format the headline metrics of each query language, of each resource level and of the worst tenth of languages.

    Returns:
        Headings and rows; a metric that no language has is left out.
    """
    levels = [level for level in (*LEVELS, WORST_TENTH) if report.metric("multi", "map", level) in report.metrics]
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
        if any(of_part[headline] is not None for of_part in values.values())
    }
    rows = [
        [part, *(format_value(f"/{setting}/{name}", of_part[setting, name]) for setting, name in shown)]
        for part, of_part in values.items()
    ]
    return ["language", *shown.values()], rows


def query_languages(report: EvalReport) -> list[str]:
    """Return the languages that have queries."""
    return [language for language in report.languages if report.metric("multi", "map", language) in report.metrics]


def _language_values(report: EvalReport, language: str) -> dict[tuple[str, str], float | None]:
    """Return the headline metrics of one query language; cross mAP is the mean over passage languages."""
    values = {
        (setting, name): report.metrics.get(report.metric(setting, name, language))
        for setting, name in headlines(report.benchmark)
    }
    index = report.languages.index(language)
    others = np.delete(report.matrix[index], index)
    others = others[~np.isnan(others)]
    return values | {("cross", "map"): float(others.mean()) if len(others) else None}
