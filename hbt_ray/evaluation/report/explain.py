"""Questions of a report with their results, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hbt_ray.evaluation.question_results import LISTED
from hbt_ray.evaluation.report.questions import EXAMPLES, QuestionCollection, QuestionResult
from hbt_ray.utils.display_text import printable
from hbt_ray.utils.terminal_table import fit_table


def explain_report(questions: QuestionCollection) -> Iterator[RenderableType]:
    """Yield a table of the languages, then the worst question of each."""
    yield _languages_table(questions)
    for language in questions.languages:
        for question in questions.worst(language, 1):
            yield explain_question(question)


def explain_language(questions: QuestionCollection, language: str) -> Iterator[RenderableType]:
    """Yield the worst questions of a language, then evenly spaced ones. Raise UserError if it has no question."""
    spelled = questions.check_language(language)
    worst = questions.worst(spelled, EXAMPLES)
    shown = {question.query_id for question in worst}
    sampled = [one for one in questions.sampled(spelled, EXAMPLES) if one.query_id not in shown]
    for title, found in (("the lowest average precision", worst), ("evenly spaced questions", sampled)):
        if found:
            yield Text(f"{spelled}: {title}\n", style="bold")
            yield from map(explain_question, found)


def explain_question(question: QuestionResult) -> RenderableType:
    """Show a question, its relevant passage, the ranks by language, and the first passages of its ranking."""
    lines: list[RenderableType] = [
        _text(question.text, "bold"),
        _text(f"{question.query_id}, {question.language}, average precision {question.average_precision:.4f}", "dim"),
    ]
    best = question.best
    if best is None:
        lines.append(_text("It has no relevant passage."))
    else:
        rank = f"rank {best.rank:,} of all" if best.rank else "not found"
        of_language = f", {best.language_rank:,} in its language" if best.rank and best.language_rank else ""
        lines.append(
            _text(f"✓ {best.language}, {rank if best.passage_id else 'not in the pool'}{of_language}", "green")
        )
        if best.text:
            lines.append(Padding(_text(best.text), (0, 0, 0, 2), expand=False))
    if len(question.ranks_by_language) > 1:
        ranks = (f"{language} {rank:,}" if rank else f"{language} –" for language, rank in question.ranks_by_language)
        lines.append(_text(f"best rank by language: {', '.join(ranks)}", "dim"))
    table = Table.grid(padding=(0, 1))
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column(overflow="fold")
    for number, listed in enumerate(question.listed, start=1):
        style = "green" if listed.is_relevant else ""
        mark = f"✓ {number}" if listed.is_relevant else str(number)
        table.add_row(mark, f"{listed.score:.4f}", _text(listed.language), _text(listed.text), style=style)
    return Group(*lines, table, "")


def _languages_table(questions: QuestionCollection) -> Table:
    """Build a table of the languages: their mAP, and which languages are found first."""
    table = Table(title="in the pool of all languages")
    for heading in ("language", "questions", "mAP", f"relevant in first {LISTED}", "languages found first"):
        table.add_column(heading, justify="right" if heading in ("questions", "mAP") else "left")
    languages, shares = questions.first_languages()
    for language, of_row in zip(questions.languages, shares, strict=True):
        number, mean, found = questions.totals(language)
        most = Counter(dict(zip(languages, of_row.tolist(), strict=True))).most_common(3)
        first = ", ".join(f"{name} {share:.0%}" for name, share in most if share >= 0.005)
        table.add_row(_text(language), f"{number:,}", f"{mean:.4f}", f"{found:.1%}", _text(first))
    return table


def print_explained(console: Console, blocks: Iterator[RenderableType]) -> None:
    """Print blocks without the highlighting of numbers."""
    for block in blocks:
        console.print(fit_table(block, console.width) if isinstance(block, Table) else block, highlight=False)


def _text(text: str, style: str = "") -> Text:
    """Return a text of a report, in which brackets are no markup."""
    return Text(printable(text), style=style, overflow="fold")
