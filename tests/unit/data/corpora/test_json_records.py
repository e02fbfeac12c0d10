"""JSON files with a list of objects, or one object a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, only_reject, read

RECORDS = [{"query": "Wo?", "answer": "Dort."}, {"query": "Wer?", "answer": "Ich."}]


@pytest.mark.parametrize("content", [json.dumps(RECORDS, indent=2), "\n".join(map(json.dumps, RECORDS))])
def test_list_and_lines_of_objects_are_rows(content: str, tmp_path: Path):
    (tmp_path / "de.json").write_text("\ufeff" * content.startswith("[") + content, encoding="utf-8")
    rows = [row for row in read(corpus("json", tmp_path)) if isinstance(row, CorpusRow)]
    assert [(row.item_id, row.question, row.passage) for row in rows] == [
        ("de.json:1", "Wo?", "Dort."),
        ("de.json:2", "Wer?", "Ich."),
    ]


def test_lists_of_equal_length_are_parallel(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / f"{language}.json").write_text(json.dumps(RECORDS))
    rows = [row for row in read(corpus("json", tmp_path)) if isinstance(row, CorpusRow)]
    assert [(row.language, row.item_id) for row in rows] == [("de", "1"), ("de", "2"), ("en", "1"), ("en", "2")]


def test_damaged_list_is_one_reject_and_a_wrong_column_lists_the_others(tmp_path: Path):
    (tmp_path / "de.json").write_text(json.dumps(RECORDS)[:-5])
    assert only_reject(read(corpus("json", tmp_path))).reason == "unreadable file"
    (tmp_path / "de.json").write_text(json.dumps([*RECORDS, 5]))
    assert only_reject(read(corpus("json", tmp_path))[2:]).reason == "not an object"
    with pytest.raises(CorpusError, match="no column 'x', but has 'query', 'answer'"):
        list_shards(corpus("json", tmp_path, columns={"question": "x"}))
