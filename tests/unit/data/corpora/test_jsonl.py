"""A corpus of JSON Lines: a row or a reject of each line, whatever it holds."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import Columns
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.types import CorpusRow, RejectedRow
from tests.helpers.corpus_files import GOOD, corpus, json_values, only_reject, read, write_lines
from tests.helpers.slow import SLOW_TESTS


def test_json_line_becomes_a_row_with_its_location(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl.gz", GOOD, {**GOOD, "id": 7, "negatives": ["Hier."]})
    assert read(corpus("jsonl", tmp_path)) == [
        CorpusRow("source", "a", "de", "Wo?", "Dort.", location="de.jsonl.gz:1"),
        CorpusRow("source", "7", "de", "Wo?", "Dort.", ("Hier.",), "de.jsonl.gz:2"),
    ]


def test_columns_can_have_other_names(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", {"key": "a", "q": "Wo?", "p": "Dort."})
    columns = Columns(id="key", question="q", passage="p")
    assert read(corpus("jsonl", tmp_path, columns=columns)) == [
        CorpusRow("source", "a", "de", "Wo?", "Dort.", location="de.jsonl:1")
    ]


def test_single_file_is_read_by_the_language_of_its_rows(tmp_path: Path):
    file = tmp_path / "all.jsonl"
    write_lines(file, *({**GOOD, "language": language} for language in ("de", "eng_Latn", "fr")), GOOD)
    every = read(corpus("jsonl", file))
    assert [row.language for row in every if isinstance(row, CorpusRow)] == ["de", "eng_Latn", "fr"]
    assert only_reject(every[3:]).reason == "missing language"
    narrowed = read(corpus("jsonl", file, languages=["de", "fr"]), {"fr", "eng_Latn"})
    assert [row.language for row in narrowed if isinstance(row, CorpusRow)] == ["fr"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"9" * 5000, "broken JSON"),
        (b"[1]", "not an object"),
        (b'{"id": "\xff"}', "wrong encoding"),
        ({**GOOD, "question": "\ud800"}, "wrong encoding"),
        ({**GOOD, "id": ""}, "missing id"),
        ({**GOOD, "id": None}, "missing id"),
        ({**GOOD, "id": True}, "wrong type"),
        ({**GOOD, "id": 1.5}, "wrong type"),
        ({**GOOD, "question": " \n"}, "missing question"),
        ({**GOOD, "question": ["Wo?"]}, "wrong type"),
        ({"id": "a", "question": "Wo?"}, "missing passage"),
        ({**GOOD, "negatives": 5}, "wrong type"),
        ({**GOOD, "negatives": [5]}, "wrong type"),
        ({**GOOD, "is_impossible": True}, "marked as unanswerable"),
        ({**GOOD, "answers": {"text": [], "answer_start": []}}, "marked as unanswerable"),
        ({**GOOD, "answer_text": "Hier", "answer_start": 0}, "answer outside its context"),
        ({**GOOD, "answer_text": "Dort", "answer_start": "0"}, "wrong type"),
    ],
)
def test_invalid_line_is_rejected_and_the_next_is_read(line: Any, reason: str, tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", line, GOOD)
    bad, good = read(corpus("jsonl", tmp_path))
    assert isinstance(bad, RejectedRow)
    assert (bad.location, bad.reason) == ("de.jsonl:1", reason)
    assert isinstance(good, CorpusRow)


def test_values_with_a_clear_meaning_are_read(tmp_path: Path):
    answer = {"answer_text": "ort", "answer_start": 1.0}
    records = ({**GOOD, "negatives": [None, "Hier."]}, {**GOOD, "id": 2.0}, {**GOOD, **answer})
    write_lines(tmp_path / "de.jsonl", *records, {**GOOD, "answer_text": "Dort", "answer_start": float("nan")})
    rows = [row for row in read(corpus("jsonl", tmp_path)) if isinstance(row, CorpusRow)]
    assert [row.negatives for row in rows] == [("Hier.",), (), (), ()]
    assert [row.item_id for row in rows] == ["a", "2", "a", "a"]
    assert [row.answer_start for row in rows] == [-1, -1, 1, -1]


@pytest.mark.parametrize("answer", [{"answer_start": 0}, {"answer_start": -1}, {"answer_start": None}, {}])
def test_answer_at_its_offset_or_without_one_is_accepted(answer: dict[str, Any], tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", {**GOOD, "answer_text": "Dort", **answer})
    [row] = read(corpus("jsonl", tmp_path))
    assert isinstance(row, CorpusRow)
    known = answer.get("answer_start") == 0
    assert (row.answer, row.answer_start) == ("Dort", 0 if known else -1)


def test_byte_order_marks_and_blank_lines_are_skipped(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), b"", b"  \r", GOOD)
    assert [row.location for row in read(corpus("jsonl", tmp_path))] == ["de.jsonl:1", "de.jsonl:4"]


def test_truncated_gzip_file_keeps_its_rows_and_ends_in_a_reject(tmp_path: Path):
    file = tmp_path / "de.jsonl.gz"
    write_lines(file, *({**GOOD, "id": os.urandom(64).hex()} for _ in range(1000)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    *rows, last = read(corpus("jsonl", tmp_path))
    assert 300 < len(rows) < 700
    assert all(isinstance(row, CorpusRow) for row in rows)
    assert isinstance(last, RejectedRow)
    assert (last.reason, last.location) == ("unreadable file", f"de.jsonl.gz:{len(rows) + 1}")


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")) | st.sampled_from([json.dumps(GOOD).encode()])))
def test_every_line_of_any_bytes_gives_one_row_or_reject(lines: list[bytes]):
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "de.jsonl", *lines)
        rows = read(corpus("jsonl", Path(folder)))
    assert [row.location for row in rows] == [f"de.jsonl:{n}" for n, line in enumerate(lines, 1) if line.strip()]


@given(st.dictionaries(st.sampled_from([*Columns().model_dump().values()]), json_values))
@settings(max_examples=200 if SLOW_TESTS else 50)
def test_every_record_gives_one_row_or_reject_in_valid_utf8(record: dict[str, Any]):
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "all.jsonl", {**GOOD, "language": "de"}, record)
        [_, row] = read(corpus("jsonl", Path(folder) / "all.jsonl"))
    texts = [row.detail] if isinstance(row, RejectedRow) else [row.item_id, row.question, row.passage, *row.negatives]
    assert all(text.encode("utf-8") is not None for text in texts)


def test_parallel_documentation_is_read_without_a_reject(shared_data: Path):
    folder = shared_data / "docs-parallel" / "courses"
    config = corpus("jsonl", folder, languages=["de", "pcm", "pt-BR", "zh-HK"])
    rows = read(config)
    assert all(isinstance(row, CorpusRow) for row in rows)
    assert len(list_shards(corpus("jsonl", folder))) == 55


def test_files_of_questions_only_are_no_language(shared_data: Path):
    shards = list_shards(corpus("jsonl", shared_data / "docs-parallel" / "erp"))
    assert [shard.language for shard in shards] == ["ar", "de", "en", "es", "ru", "th", "tr", "zh"]


def test_answers_of_parallel_squad_are_in_their_contexts(shared_data: Path):
    rows = read(corpus("jsonl", shared_data / "squad-parallel"))
    assert Counter(type(row) for row in rows) == {CorpusRow: 4370 + 1027}
