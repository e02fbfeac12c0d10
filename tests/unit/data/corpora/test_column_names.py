"""Which column is what."""

from __future__ import annotations

import pytest

from hbt_ray.config import Columns
from hbt_ray.data.corpora.column_names import resolve_columns
from hbt_ray.errors import CorpusError


def resolved(*names: str, **configured: str) -> tuple[str, str, str]:
    columns = resolve_columns(Columns(**configured), names, "faq", "en.csv")
    return columns.question, columns.passage, columns.negatives


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("id question context negatives", "question context negatives"),
        ("anchor positive negative", "anchor positive negative"),
        ("query positive negative_1 negative_2", "query positive negative"),
        ("query answer", "query answer negatives"),
        ("question answer", "question answer negatives"),
        ("question context answer", "question context negatives"),
        ("sentence1 sentence2", "sentence1 sentence2 negatives"),
        ("english non_english", "english non_english negatives"),
        ("Question Answer", "Question Answer negatives"),
        ("title text", "title text negatives"),
    ],
)
def test_usual_names_are_found(names: str, found: str):
    assert " ".join(resolved(*names.split())) == found


def test_configured_columns_come_before_usual_names():
    assert resolved("query", "anchor", "doc", question="anchor")[:2] == ("anchor", "doc")


def test_one_column_has_one_meaning():
    assert resolved("query", "text", passage="query", question="text")[:2] == ("text", "query")
    with pytest.raises(CorpusError, match="no column 'context', but has 'query'"):
        resolved("query")


@pytest.mark.parametrize("meaning", Columns.model_fields)
def test_configured_column_that_is_missing_is_an_error(meaning: str):
    with pytest.raises(
        CorpusError, match=f"has no column 'absent', but has 'question', 'context'; write columns: {{{meaning}"
    ):
        resolved("question", "context", **{meaning: "absent"})


def test_pairs_with_grades_are_named(caplog: pytest.LogCaptureFixture):
    resolved("sentence1", "sentence2", "label")
    assert "read as a positive pair, whatever its 'label'" in caplog.text
