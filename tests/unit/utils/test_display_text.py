"""Any text is shown on one line without controls, and is cut between words and letters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.utils.display_text import printable, shorten


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
