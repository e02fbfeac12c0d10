"""Tables whose numbers and names are whole at any width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hbt_ray.utils.terminal_table import print_markdown, print_tables


def table_of(names: list[str], columns: int, title: str = "results") -> Table:
    """Return a table of names, with a number such as 0.1203 ±0.0100 in every column."""
    table = Table(title=title)
    table.add_column("configuration")
    for column in range(columns):
        table.add_column(f"metric {column}", justify="right")
    for row, name in enumerate(names):
        table.add_row(name, *(f"0.{row}{column}03 ±0.0100" for column in range(columns)))
    return table


def printed(table: Table, width: int = 80) -> list[str]:
    file = io.StringIO()
    print_tables([table], Console(file=file, width=width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@given(
    st.lists(st.text("abc=0.5,x-", min_size=1, max_size=90), min_size=1, max_size=20, unique=True),
    st.integers(1, 8),
    st.sampled_from([80, 120]),
)
def test_every_number_and_every_name_is_whole(names, columns, width):
    lines = printed(table_of(names, columns), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert text.count("±0.0100") == len(re.findall(r"0\.\d+03 ±0\.0100", text)) == len(names) * columns
    if width == 120:  # more than the longest name
        assert all(name in text for name in names)


def test_table_that_fits_is_printed_below_its_title():
    lines = printed(table_of(["alpha=0", "alpha=1"], 2, title="a title that is longer than this small table is wide"))
    assert lines[0] == "a title that is longer than this small table is wide"
    assert "alpha=1" in lines[-2]
    assert lines[-1].startswith("└")


def test_long_names_get_labels_that_are_listed_below():
    names = ["alpha=0.25,learning_rate=0.00003,temperature=0.05", "alpha=0.75,learning_rate=0.00003,temperature=0.05"]
    lines = printed(table_of(names, 3))
    assert lines[-2:] == [f"A  {names[0]}", f"B  {names[1]}"]
    assert re.search(r"│ A +│ +0\.0003 ±0\.0100", "\n".join(lines))


def test_first_column_is_folded_between_words_where_that_keeps_a_row_together():
    lines = printed(table_of(["embedded rank distance", "two"], 3), 72)
    assert re.search(r"│ embedded rank +│ 0\.0003 ±0\.0100 │", "\n".join(lines))
    assert sum("metric 2" in line for line in lines) == sum("metric 0" in line for line in lines) == 1


def test_columns_that_do_not_fit_are_in_a_second_table():
    lines = printed(table_of(["one", "two"], 6))
    assert sum("configuration" in line for line in lines) == 2


def test_marked_cells_and_texts_are_measured_without_their_marks():
    table = Table()
    table.add_column("run")
    table.add_column("mAP")
    table.add_row(Text("[one]"), "[bold]0.1234[/bold]")
    assert "│ [one] │ 0.1234 │" in printed(table, 20)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_of_markdown_are_whole(width):
    file = io.StringIO()
    table = ["| method | mAP ↑ |", "|---|---:|", "| x\\|y | **0.5231 ± 0.0123** best |", ""]
    print_markdown(["Means over the seeds.", "", *table], Console(file=file, width=width))
    text = file.getvalue()
    assert "Means over the seeds." in text
    assert "x|y" in text
    assert "0.5231 ± 0.0123 best" in text
