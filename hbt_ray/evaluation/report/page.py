"""The page of a report: headline metrics, languages against languages, bias, and questions with their results."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hbt_ray.evaluation.evaluator import EvalReport
from hbt_ray.evaluation.metrics import METRICS, SETTINGS, display_name, find_metric
from hbt_ray.evaluation.question_results import LISTED
from hbt_ray.evaluation.report.questions import QuestionCollection, QuestionResult
from hbt_ray.evaluation.report.settings import described_report
from hbt_ray.evaluation.report.tables import (
    dimensions_line,
    format_value,
    gap_rows,
    headlines,
    language_rows,
    metric_rows,
    query_languages,
    recall_line,
)
from hbt_ray.utils.display_text import shorten
from hbt_ray.utils.html_page import Cell, Rows, heat_map, image_source, render_page, short_share

_TEXT_CHARS = 240  # of a text on the page; `hbt explain` shows more
_BIAS = (("multi", "max_rank"), ("multi", "same_language_first"))  # besides the headlines
_TILES = (("mono", "ndcg@10"), ("multi", "ndcg@10"), *_BIAS)


def report_page(report: EvalReport, summary: Mapping[str, object], projection: Path | None = None) -> str:
    """Return a report as one HTML file.

    Args:
        report: the result of an evaluation.
        summary: the content of its `report.json`.
        projection: the figure of its vectors.
    """
    questions = QuestionCollection(report.results)
    return render_page(
        "hbt_ray.evaluation",
        "report.html.jinja",
        title=f"{report.title}: {_model_name(summary)}" if summary.get("model") else report.title,
        report=report,
        remarks=[
            *(f"{note[0].upper()}{note[1:]}." for note in report.notes),
            *([f"The {dimensions_line(report)}."] if report.dimensions is not None else []),
            *([f"The ranking is approximate: {recall_line(report)}."] if report.index_recall else []),
        ],
        tiles=_tiles(report),
        metrics=[[metric.name_at(report.depth).replace("_", " "), *values] for metric, values in metric_rows(report)],
        settings=SETTINGS,
        pairs=_pair_map(report),
        first_languages=_first_languages(questions),
        gap=gap_rows(report),
        bias=_bias_table(report),
        examples=[
            (language, _summary_of(report, language), _examples(questions, language))
            for language in questions.languages
        ],
        per_language=questions.examples,
        listed=LISTED,
        trec=trec_rows(report),
        described=described_report(summary),
        projection=None if projection is None else image_source(projection),
    )


def _model_name(summary: Mapping[str, object]) -> str:
    model = summary.get("model")
    path = str(model.get("path", "")) if isinstance(model, Mapping) else str(model)
    return "/".join(Path(path).parts[-2:])


def _tiles(report: EvalReport) -> list[tuple[str, str, str]]:
    """Return heading, value and direction of the metrics that runs are compared by, and of a few others."""
    names = {report.metric(*key): display_name(f"{key[0]}/{key[1]}") for key in (*headlines(report.benchmark), *_TILES)}
    return [
        (heading, format_value(name, report.metrics[name]), _direction(name))
        for name, heading in names.items()
        if name in report.metrics
    ]


def _direction(name: str) -> str:
    metric = find_metric(name)
    return "higher is better" if metric.higher_is_better else "lower is fairer"


# A heat map of shares, from 0 to 1
_share_map = functools.partial(heat_map, low=0, high=1, text_of=short_share)


def _pair_map(report: EvalReport) -> tuple[list[str], Rows]:
    """Return headings and rows of mAP by the language of the question and of the passage."""
    rows = [report.languages.index(language) for language in query_languages(report)]
    columns = [n for n, language in enumerate(report.languages) if report.counts[f"passages/{language}"]]
    names = [report.languages[n] for n in columns]
    return ["question ↓ passage →", *names], _share_map(
        report.matrix[np.ix_(rows, columns)],
        rows=query_languages(report),
        columns=names,
        note_of=lambda row, column, value: f"question {row}, passage {column}: mAP {value:.4f}",
    )


def _first_languages(questions: QuestionCollection) -> tuple[list[str], Rows]:
    """Return headings and rows of the languages of the first passages, by question language."""
    languages, shares = questions.first_languages()
    return ["question ↓ passage →", *languages], _share_map(
        shares,
        rows=questions.languages,
        columns=languages,
        note_of=lambda row, column, value: f"question {row}: {value:.1%} of the first passages are {column}",
    )


def _bias_table(report: EvalReport) -> tuple[list[str], Rows]:
    """Return headings and rows of metrics by question language, as bars from 0 to a column's largest number."""
    headings, rows = language_rows(report)
    for key in _BIAS:
        names = [report.metric(*key, row[0]) for row in rows]
        if any(name in report.metrics for name in names):
            headings = [*headings, display_name("/".join(key)).removeprefix("multi ")]
            rows = [[*row, format_value(name, report.metrics.get(name))] for row, name in zip(rows, names, strict=True)]
    numbers = [[_number(text) for text in row[1:]] for row in rows]
    largest = [
        max((abs(number) for number in column if number is not None), default=1.0)
        for column in zip(*numbers, strict=True)
    ]
    found: Rows = []
    for row, of_row in zip(rows, numbers, strict=True):
        cells: list[str | Cell] = [row[0]]
        for text, number, most in zip(row[1:], of_row, largest, strict=True):
            cells.append(Cell(text=text, bar=None if number is None else abs(number) / (most or 1.0)))
        found.append(cells)
    return headings, found


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _summary_of(report: EvalReport, language: str) -> str:
    name = report.metric("multi", "map", language)
    shown = f", multi mAP {report.metrics[name]:.4f}" if name in report.metrics else ""
    return f"{report.counts[f'queries/{language}']:,} questions{shown}"


def _examples(questions: QuestionCollection, language: str) -> list[tuple[str, list[QuestionResult]]]:
    """Return the kinds of questions that are shown of a language, each with its questions."""
    worst = questions.worst(language, questions.examples)
    shown = {question.query_id for question in worst}
    sampled = [one for one in questions.sampled(language, questions.examples) if one.query_id not in shown]
    return [
        ("The lowest average precision", [_shortened(one) for one in worst]),
        ("Evenly spaced questions", [_shortened(one) for one in sampled]),
    ]


def _shortened(question: QuestionResult) -> QuestionResult:
    """Return a question with texts of the page's length; of its relevant passages, only the shown one has a text."""
    relevant = [
        replace(one, text=shorten(one.text, _TEXT_CHARS) if one is question.best else "") for one in question.relevant
    ]
    listed = [replace(one, text=shorten(one.text, _TEXT_CHARS)) for one in question.listed]
    return replace(question, text=shorten(question.text, _TEXT_CHARS), relevant=tuple(relevant), listed=tuple(listed))


def trec_rows(report: EvalReport) -> list[list[str]]:
    """Return a row for each metric that `ir_measures` computes from `run.trec`: ours, that one, and why they differ."""
    unequal = len({report.counts[f"queries/{language}"] for language in query_languages(report)}) > 1
    rows = []
    for name, value in report.run_file_metrics.items():
        metric, ours = METRICS[name], report.metrics.get(report.metric("multi", name))
        if ours is None:
            continue
        cut_off = int(name.partition("@")[2] or 0)
        depth = report.run.passage_indices.shape[1]
        reasons = [
            *([f"run.trec ends at rank {depth}"] if depth < (cut_off or report.counts["passages"]) else []),
            *(["ours is the mean over languages, not over questions"] if unequal else []),
            *(["ours counts questions without a judgement as 0"] if report.counts["queries_without_relevant"] else []),
        ]
        is_equal = abs(value - ours) < 5e-5
        why = "equal" if is_equal else "; ".join(reasons) or "rounding"
        rows.append([f"multi {metric.display}", f"{ours:.4f}", f"{value:.4f}", why])
    return rows
