"""A report as Markdown, with its figures."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import SETTINGS
from hbt_ray.evaluation.report.tables import dimensions_line, gap_rows, language_rows, metric_rows, recall_line

_NUMBER = re.compile(r"\W*\d|\W*$")  # matches cells that begin with a number, are empty or hold a dash


def markdown_lines(report: EvalReport, with_figures: bool = True) -> Iterator[str]:
    """Yield the lines of a report: every metric, the gap, headline metrics by language, figures, rejects."""
    counts = report.counts
    yield f"# {html.escape(report.title, quote=False)}"
    yield ""
    yield (
        f"{counts['queries']:,} queries and {counts['passages']:,} passages in {counts['languages']} languages; "
        f"benchmark {report.fingerprint}."
    )
    for warning in report.warnings:
        yield ""
        yield f"**Warning: {warning}.**"
    for note in report.notes:
        yield ""
        yield f"{note[0].upper()}{note[1:]}."
    if report.dimensions is not None:
        yield ""
        yield f"The {dimensions_line(report)}."
    yield ""
    yield from markdown_table(
        ["measure", *SETTINGS], [[metric.name_at(report.depth), *values] for metric, values in metric_rows(report)]
    )
    yield ""
    headings, rows = gap_rows(report)
    if rows:
        yield from markdown_table(headings, rows)
        yield ""
    yield from markdown_table(*language_rows(report))
    if report.index_recall:
        yield ""
        yield recall_line(report) + "."
    figures = (("matrix", "mAP by languages"), ("bias", "Language bias"), ("projection", "Vectors"))
    for name, title in figures if with_figures else ():
        yield ""
        yield f"![{title}]({name}.png)"
    if report.rejects:
        yield ""
        yield from markdown_table(
            ["found in its files", "times"],
            [[reason, f"{number:,}"] for reason, number in sorted(Counter(r.reason for r in report.rejects).items())],
        )


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: words are aligned left, columns of numbers right."""
    is_numeric = [column > 0 and all(_NUMBER.match(row[column]) for row in rows) for column in range(len(headings))]
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "".join("---:|" if right else "---|" for right in is_numeric)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
