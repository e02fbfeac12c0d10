"""The command `explain`: questions of a report with what a model found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbt_ray.cli.options import examples
from hbt_ray.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command(
    epilog=examples(
        "hbt explain ~/hbt_runs/smoke-report",
        "hbt explain ~/hbt_runs/smoke-report --language de",
        "hbt explain ~/hbt_runs/smoke-report --query de:currency/CO",
    )
)
@click.argument("report")
@click.option("--query", metavar="ID", help="Only the question with this id.")
@click.option("--language", metavar="CODE", help="Only questions in this language.")
def explain(report: str, query: str | None, language: str | None) -> None:
    """Show questions with what a model found for them.

    REPORT is the folder of a report, or of a run with one report. Without an option: the languages, and the worst
    question of each.
    """
    if query is not None and language is not None:
        raise UserError("--query names one question; leave out --language")
    from rich.console import Console

    from hbt_ray.evaluation.report import QuestionCollection, find_reports, read_question_results
    from hbt_ray.evaluation.report.explain import explain_language, explain_question, explain_report, print_explained

    folders = find_reports(Path(report).expanduser())
    if len(folders) > 1:
        raise UserError(f"{report!r} has {len(folders)} reports; name one, such as {str(folders[0])!r}")
    questions = QuestionCollection(read_question_results(folders[0]))
    blocks: Iterator[RenderableType]
    if query is not None:
        blocks = iter([explain_question(questions.find(query))])
    elif language is not None:
        blocks = explain_language(questions, language)
    else:
        blocks = explain_report(questions)
    print_explained(Console(), blocks)
    if query is None and language is None:
        click.echo(f"more: hbt explain {report} --language {questions.languages[0]}, or --query ID")
