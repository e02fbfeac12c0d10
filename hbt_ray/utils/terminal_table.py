"""Tables in a terminal, a pipe or a log of a job: no number and no name is ever cut or broken over lines.

A table that is too wide has its first column folded between words where that is enough, or gets short labels for the
names in it, which are listed below; if it is still too wide, it becomes several tables with the same first column.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.table import Column, Table
from rich.text import Text

_MAX_LABELLED = 26  # rows with a label from A to Z
_SEPARATOR = 3  # characters between two columns at most


def print_tables(tables: Iterable[Table], console: Console | None = None) -> None:
    """Print tables so that they fit the width of the terminal, 80 where there is none; each below its title."""
    console = console or Console()
    for table in tables:
        console.print(fit_table(table, console.width), highlight=False, soft_wrap=False)


def fit_table(table: Table, width: int) -> RenderableType:
    """Return a table of a width, or what it is divided into, below its title and above its caption.

    1. If the table is too wide, the first column is folded between words where that is enough.
    2. Else names of the first column that take more than a third of the width become labels.
    3. The other columns are distributed over as many tables as it takes.
    4. Only a column of text that is wider than a whole line is folded.
    """
    widths = [max(map(_width, (column.header, *column.cells)), default=0) for column in table.columns]
    legend: list[str] = []
    first = list(table.columns[0].cells)
    words = [_width(word) for cell in (table.columns[0].header, *first) for word in _plain(cell).split()]
    folded = width - _total([0, *widths[1:]], table)  # what the other columns leave
    if max(words, default=1) <= folded < widths[0]:
        widths[0] = folded
    elif _total(widths, table) > width and widths[0] > width // 3 and len(first) <= _MAX_LABELLED:
        labels = [chr(ord("A") + number) for number in range(len(first))]
        legend = [f"{label}  {_plain(name)}" for label, name in zip(labels, first, strict=True)]
        widths[0] = max(_width(table.columns[0].header), 1)
        first = list(labels)
    parts: list[RenderableType] = [Text(_plain(table.title), style="italic")] if table.title else []
    for numbers in _distribute(widths, width, table):
        parts.append(_part(table, numbers, first, width, widths))
    parts += [Text(line, overflow="fold") for line in legend]
    if table.caption:
        parts.append(Text(_plain(table.caption), style="dim italic"))
    return Group(*parts)


def _distribute(widths: Sequence[int], width: int, table: Table) -> list[list[int]]:
    """Return the columns of each part, the first column left out."""
    parts: list[list[int]] = [[]]
    for number in range(1, len(widths)):
        if parts[-1] and _total([widths[0], *(widths[n] for n in parts[-1]), widths[number]], table) > width:
            parts.append([])
        parts[-1].append(number)
    return parts


def _part(
    table: Table, numbers: Sequence[int], first: Sequence[RenderableType], width: int, widths: Sequence[int]
) -> Table:
    part = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding, show_header=table.show_header)
    for number in (0, *numbers):
        column: Column = table.columns[number]
        fits = _total([widths[0], widths[number]] if number else [widths[0]], table) <= width
        part.add_column(
            column.header,
            justify=column.justify,
            style=column.style,
            no_wrap=fits and bool(number),
            overflow="fold",
            min_width=1,
        )
    cells = [first, *(list(table.columns[number].cells) for number in numbers)]
    for row in itertools.zip_longest(*cells, fillvalue=""):
        part.add_row(*row)
    return part


def _total(widths: Sequence[int], table: Table) -> int:
    """Return the width of a table with columns of some widths, padding and lines included."""
    return sum(widths) + _SEPARATOR * len(widths) + (1 if table.pad_edge else -1)


def _width(cell: RenderableType) -> int:
    return max(map(cell_len, _plain(cell).splitlines()), default=0)


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


def print_markdown(lines: Iterable[str], console: Console | None = None) -> None:
    """Print Markdown; its tables as `print_tables` does."""
    console = console or Console()
    for is_table, block in itertools.groupby(lines, lambda line: line.startswith("|")):
        if not is_table:
            console.print(Markdown("\n".join(block)))
            continue
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block]
        table = Table()
        for heading, rule in zip(rows[0], rows[1], strict=True):
            table.add_column(heading, justify="right" if rule.endswith(":") else "left")
        for row in rows[2:]:
            table.add_row(*map(_cell, row))
        print_tables([table], console)


def _cell(markdown: str) -> Text:
    bold = re.fullmatch(r"\*\*(.*)\*\*(.*)", markdown)
    text = markdown.replace("\\|", "|").replace("`", "")
    return Text.assemble((bold[1], "bold"), bold[2]) if bold else Text(text)
