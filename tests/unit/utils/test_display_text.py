"""Any text is shown on one line without controls, and is cut between words; sentences are broken between words."""

from __future__ import annotations

import io
import logging
import sys
import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.cli.command_group import Commands
from hbt_ray.errors import UserError
from hbt_ray.utils.display_text import printable, shorten, wrap_for
from hbt_ray.utils.logging import _StderrHandler
from hbt_ray.utils.progress import print_line


@given(st.text())
def test_printable_text_is_one_line_without_controls(text: str):
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert not any(unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"} for one in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert printable(shown) == shown


@given(st.text(), st.integers(2, 40))
def test_shortened_text_is_a_beginning_within_the_limit(text: str, limit: int):
    shown = shorten(text, limit)
    assert len(shown) <= limit
    assert shown == printable(text) or printable(text).startswith(shown.removesuffix("…"))
    assert (shown == printable(text)) or shown.endswith("…")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two three", "one two…"),
        ("onetwothree", "onetwothr…"),
        ("ab हिन्दी है", "ab हिन्दी…"),
        ("a" * 8 + "e\u0301e\u0301", "a" * 8 + "…"),  # an accent keeps its letter
    ],
)
def test_texts_are_cut_between_words_or_letters(text: str, shown: str):
    assert shorten(text, 10) == shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


SENTENCE = "  embedded: 3,292 items to train on; write `hbt train --config a.yaml alpha=0.6` or well-known others"


def test_sentences_are_broken_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert wrap_for(io.StringIO(), SENTENCE) == SENTENCE
    assert wrap_for(Terminal(), f"short\n{SENTENCE}\n").split("\n") == [
        "short",
        "  embedded: 3,292 items to train on;",
        "  write",
        "  `hbt train --config a.yaml alpha=0.6`",
        "  or well-known others",
        "",
    ]


def test_progress_warnings_and_errors_are_broken_between_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr", Terminal())
    print_line(SENTENCE)
    log = logging.Logger("of this test")
    log.addHandler(_StderrHandler())
    log.warning("%s", SENTENCE)

    def fail() -> None:
        raise UserError(SENTENCE)

    with pytest.raises(SystemExit):
        Commands(commands=[click.Command("fail", callback=fail)]).main(["fail"])
    shown = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(shown) == 3 * 4
    assert max(map(len, shown)) <= 40
