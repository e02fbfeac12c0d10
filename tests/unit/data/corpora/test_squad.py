"""A corpus in SQuAD's format: the sentence that answers, or the whole context."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.types import CorpusRow, RejectedRow
from tests.helpers.corpus_files import corpus, json_values, read

CONTEXT = "One day. Two days. "  # sentences [0, 8] and [9, 18]


def write_squad(file: Path, context: Any, *questions: Any, **paragraph: Any) -> None:
    content = json.dumps({"data": [{"paragraphs": [{"context": context, "qas": list(questions), **paragraph}]}]})
    file.write_bytes(gzip.compress(content.encode()) if file.suffix == ".gz" else content.encode())


def question(item_id: str, start: int, answer: str) -> dict[str, Any]:
    return {"id": item_id, "question": "Where?", "answers": [{"answer_start": start, "text": answer}]}


def test_passage_is_the_answers_sentence_if_sentences_are_marked(tmp_path: Path):
    write_squad(tmp_path / "en.json", CONTEXT, question("a", 9, "Two"), sentence_breaks=[[0, 8], [9, 18]])
    location = "en.json:data[0].paragraphs[0].qas[0]"
    found = CorpusRow("source", "a", "en", "Where?", "Two days.", location=location, answer="Two", answer_start=0)
    assert read(corpus("squad", tmp_path)) == [found]


@pytest.mark.parametrize(("breaks", "start"), [([[0, 8], [8, 18]], 4), ([[0, 19]], 13), (None, 13)])
def test_answer_start_is_the_offset_in_the_passage(tmp_path: Path, breaks, start: int):
    marked = {} if breaks is None else {"sentence_breaks": breaks}
    write_squad(tmp_path / "en.json", CONTEXT, question("a", 13, "days"), **marked)
    [row] = read(corpus("squad", tmp_path))
    assert isinstance(row, CorpusRow)
    assert (row.answer, row.answer_start) == ("days", start)
    assert row.passage[start:].startswith("days")


@pytest.mark.parametrize(
    "entry",
    [question("a", 9, "Two"), question("a", -1, "unknown"), {"id": "a", "question": "Where?", "answers": []}],
    ids=["known answer", "unknown offset", "no answer"],
)
def test_passage_is_the_context_if_no_sentences_are_marked(entry: dict[str, Any], tmp_path: Path):
    write_squad(tmp_path / "en.json.gz", CONTEXT, entry)
    [row] = read(corpus("squad", tmp_path))
    assert isinstance(row, CorpusRow)
    assert row.passage == CONTEXT


@pytest.mark.parametrize("mark", [True, 1, "true"])
def test_question_marked_as_unanswerable_is_no_pair(mark: Any, tmp_path: Path):
    impossible = {"id": "b", "question": "Why?", "is_impossible": mark, "answers": []}
    plausible = question("c", 0, "One") | {"is_impossible": mark}
    answerable = question("a", 9.0, "Two") | {"is_impossible": False}  # type: ignore[arg-type]
    write_squad(tmp_path / "en.json", CONTEXT, answerable, impossible, plausible)
    rows = read(corpus("squad", tmp_path))
    found = [row.reason if isinstance(row, RejectedRow) else row.item_id for row in rows]
    assert found == ["a", "marked as unanswerable", "marked as unanswerable"]


def test_misplaced_answer_is_rejected_and_the_next_is_read(tmp_path: Path):
    breaks = [[0, 8]]
    questions = [question("a", 8, "Two"), question("b", 9, "Two"), question("c", 0, "One")]
    write_squad(tmp_path / "en.json", CONTEXT, *questions, sentence_breaks=breaks)
    rows = read(corpus("squad", tmp_path))
    assert [row.reason if isinstance(row, RejectedRow) else row.item_id for row in rows] == [
        "answer outside its context",
        "answer in no sentence",
        "c",
    ]


def test_missing_lists_are_rejected_with_their_location(tmp_path: Path):
    (tmp_path / "en.json").write_text('{"data": [{"paragraphs": [{"context": "x"}]}, 5]}')
    rows = read(corpus("squad", tmp_path))
    assert [(row.location, row.reason) for row in rows if isinstance(row, RejectedRow)] == [
        ("en.json:data[0].paragraphs[0]", "not SQuAD"),
        ("en.json:data[1]", "not SQuAD"),
    ]


@given(json_values, st.lists(json_values), st.lists(json_values))
def test_any_values_give_one_row_or_reject_for_each_question(context: Any, questions: list[Any], breaks: list[Any]):
    with tempfile.TemporaryDirectory() as folder:
        write_squad(Path(folder) / "de.json", context, *questions, sentence_breaks=breaks)
        assert len(read(corpus("squad", Path(folder)))) == len(questions)


def test_xquad_r_has_1190_questions_aligned_in_11_languages(shared_data: Path):
    rows = [row for row in read(corpus("squad", shared_data / "xquad-r")) if isinstance(row, CorpusRow)]
    assert Counter(Counter(row.language for row in rows).values()) == {1190: 11}
    assert len({row.item_id for row in rows}) == 1190
