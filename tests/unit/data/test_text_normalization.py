from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.text_normalization import clean_row, normalize_for_matching, normalize_for_storage
from hbt_ray.data.types import CorpusRow, RejectedRow

any_text = st.text(st.characters())  # lone surrogates too


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a\tb\r\n c\u00a0d\u3000e ", "a b c d e"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x1b[0m\x7f", "ab[0m"),
        ("\ufeffa\u200bb\u00adc\u202ed", "abcd"),
        ("a\ud800b", "ab"),
        ("e\u200b\u0301", "\u00e9"),  # composed once the mark between has gone
        ("\u06dd", "\u06dd"),
    ],
)
def test_control_and_zero_width_characters_are_deleted(text: str, cleaned: str):
    assert normalize_for_storage(text) == cleaned


def test_joiners_that_distinguish_words_are_kept():
    persian, sinhala = "می\u200cخواهم", "ක්\u200dර"
    assert normalize_for_storage(persian) == persian
    assert normalize_for_storage(sinhala) == sinhala


@given(any_text)
def test_normalize_for_storage_is_idempotent(text: str):
    once = normalize_for_storage(text)
    assert normalize_for_storage(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("Where is it?", "where is it"),
        ("“WHERE – is it…”", "where is it"),
        ("Ｗｈｅｒｅ　ｉｓ　ｉｔ？", "where is it"),
        ("Straße", "strasse"),
        ("पानी।", "पानी"),  # the vowel signs are letters' marks, not punctuation
        ("می\u200cخواهم", "میخواهم"),
        ("C++, 5 €", "c++ 5 €"),
        ("?!", ""),
    ],
)
def test_case_width_and_punctuation_do_not_affect_matches(text: str, normalised: str):
    assert normalize_for_matching(text) == normalised


@given(any_text)
def test_normalize_for_matching_is_idempotent(text: str):
    once = normalize_for_matching(text)
    assert normalize_for_matching(once) == once
    once.encode("utf-8")


@given(any_text)
def test_normalizing_for_storage_does_not_change_matches(text: str):
    assert normalize_for_matching(normalize_for_storage(text)) == normalize_for_matching(text)


def test_clean_row_normalizes_every_text():
    row = CorpusRow("source", "a", "de", " Wo? ", "Dort.\n", ("Dort.", "", "\u200b", " Hier "), "de.jsonl:1")
    assert clean_row(row) == CorpusRow("source", "a", "de", "Wo?", "Dort.", ("Hier",), "de.jsonl:1")


@pytest.mark.parametrize(
    ("passage", "answer", "start", "expected"),
    [
        ("Es  ist\u200b dort, dort.", "dort", 15, ("dort", 13)),  # the second one
        ("Es ist cafe\u0301 dort.", "dort", 13, ("dort", 12)),
        ("Es ist dort.", "dort", -1, ("dort", -1)),
        ("Es ist dort.", "hier", 7, ("hier", -1)),
        ("Es ist dort.", "\u200b", 7, (None, -1)),
        ("Es ist dort.", None, 7, (None, -1)),
    ],
)
def test_answer_offset_follows_the_normalized_passage(passage, answer, start, expected):
    row = clean_row(CorpusRow("source", "a", "de", "Wo?", passage, answer=answer, answer_start=start))
    assert isinstance(row, CorpusRow)
    assert (row.answer, row.answer_start) == expected


def test_row_without_text_after_cleaning_is_rejected():
    assert clean_row(CorpusRow("source", "a", "de", "\u200b", "Dort.", location="x:1")) == RejectedRow(
        "source", "x:1", "empty question", "item a"
    )
    assert clean_row(CorpusRow("source", "a", "de", "Wo?", "\x00", location="x:1")) == RejectedRow(
        "source", "x:1", "empty passage", "item a"
    )
