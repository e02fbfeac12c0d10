"""Files whose rows have texts in several languages, each in columns of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.config import Columns
from hbt_ray.data.corpora.column_names import columns_by_language
from hbt_ray.data.corpora.detection import detect_corpus
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, read

ROWS = [
    {"id": "a", "question_en": "Where?", "context_en": "There.", "question_de": "Wo?", "context_de": "Dort."},
    {"id": "b", "question_en": "Who?", "context_en": "Me.", "question_de": "", "context_de": ""},
]
EXPECTED = [("a", "en", "Where?", "There."), ("b", "en", "Who?", "Me."), ("a", "de", "Wo?", "Dort.")]


def write(file: Path, rows: list[dict[str, str]]) -> None:
    match file.suffix:
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        case suffix:
            separator = "\t" if suffix == ".tsv" else ","
            file.write_text("".join(separator.join(line) + "\n" for line in [rows[0], *(row.values() for row in rows)]))


def rows_of(*arguments, **settings) -> list[tuple[str, str, str | None, str]]:
    rows = read(corpus(*arguments, **settings))
    assert all(isinstance(row, CorpusRow) for row in rows), rows
    return [(row.item_id, row.language, row.question, row.passage) for row in rows if isinstance(row, CorpusRow)]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_row_is_an_item_in_the_languages_of_its_columns(format: str, tmp_path: Path):
    write(tmp_path / f"sheet.{format}", ROWS)
    assert rows_of(format, tmp_path) == EXPECTED
    assert rows_of(format, tmp_path, languages=["de"]) == EXPECTED[2:]


def test_rows_without_ids_are_numbered_alike_in_all_languages(tmp_path: Path):
    write(tmp_path / "sheet.csv", [{key: value for key, value in row.items() if key != "id"} for row in ROWS])
    ids = [item_id for item_id, *_ in rows_of("csv", tmp_path)]
    assert ids[0] == ids[2] != ids[1]


def test_language_without_columns_is_refused_by_name(tmp_path: Path):
    write(tmp_path / "sheet.csv", ROWS)
    with pytest.raises(CorpusError, match="fr"):
        rows_of("csv", tmp_path, languages=["fr"])


def test_sheet_is_recognized_by_inspection(tmp_path: Path):
    write(tmp_path / "sheet.csv", ROWS)
    found = detect_corpus(str(tmp_path))
    assert rows_of(found.format, tmp_path, **found.model_dump(exclude={"format", "path", "name"})) == EXPECTED


@pytest.mark.parametrize(
    ("names", "languages"),
    [
        (["Question (EN)", "Answer (EN)", "Question (pt-BR)", "Answer (pt-BR)"], ["en", "pt-BR"]),
        (["query-en", "positive-en", "query-sw"], ["en"]),  # no passage in Swahili
        (["question", "context", "question_id"], []),  # not Indonesian
        (["questionen", "contexten"], []),
        (["source_en", "target_de"], []),
    ],
)
def test_columns_of_a_language_are_question_and_passage(names: list[str], languages: list[str]):
    assert list(columns_by_language(Columns(), names)) == languages
