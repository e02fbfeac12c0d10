"""Languages, columns and ids of files whose rows have columns, from what is in them and in their names."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.config import Columns
from hbt_ray.data.corpora import list_shards
from hbt_ray.data.corpora.column_names import columns_by_language
from hbt_ray.data.corpora.detection import detect_corpus
from hbt_ray.data.inspection import sample_corpus
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import GOOD, corpus, read, write_lines

PAIR = {"query": "Wo?", "answer": "Dort."}


def items(folder: Path, **settings: Any) -> dict[str, list[str]]:
    """Return the languages of each item."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in read(corpus("jsonl", folder, **settings)):
        assert isinstance(row, CorpusRow), row
        found[row.item_id].append(row.language)
    return dict(found)


def test_rows_with_equal_numbers_are_translations_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for language in ("de", "en"):
        write_lines(tmp_path / f"{language}.jsonl", PAIR, PAIR)
    assert items(tmp_path) == {"1": ["de", "en"], "2": ["de", "en"]}
    assert "de.jsonl, en.jsonl have 2 rows each: rows with equal numbers are taken as translations" in caplog.text
    assert items(tmp_path, ids="unique") == {
        "de.jsonl:1": ["de"], "de.jsonl:2": ["de"], "en.jsonl:1": ["en"], "en.jsonl:2": ["en"]
    }  # fmt: skip


@pytest.mark.parametrize("columns", [("question", "context"), ("query", "answer"), ("demande", "reponse")])
def test_columns_that_differ_between_files_are_one_sentence(tmp_path: Path, columns: tuple[str, str]):
    for language, names in (("de", ("frage", "antwort")), ("en", columns)):
        row = dict(zip(names, ("Where is it to be found?", "It is there, where it has always been."), strict=True))
        write_lines(tmp_path / f"{language}.jsonl", row, row)
    with pytest.raises(CorpusError) as refused:
        sample_corpus(str(tmp_path))
    assert "'frage', 'antwort'" in str(refused.value)
    assert f"{columns[0]!r}, {columns[1]!r}" in str(refused.value)
    assert str(refused.value).endswith("; give the columns one name, or write a corpus for each file")


def test_files_with_unequal_numbers_of_rows_are_not_parallel(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_lines(tmp_path / "de.jsonl", PAIR)
    write_lines(tmp_path / "en.jsonl", PAIR, PAIR)
    assert set(items(tmp_path)) == {"de.jsonl:1", "en.jsonl:1", "en.jsonl:2"}
    assert "the numbers of rows differ (de.jsonl 1, en.jsonl 2)" in caplog.text
    with pytest.raises(
        CorpusError, match=r"ids: rows needs files with equally many rows, not de\.jsonl 1, en\.jsonl 2"
    ):
        list_shards(corpus("jsonl", tmp_path, ids="rows"))
    with pytest.raises(CorpusError, match=r"has no column 'id', but has 'query', 'answer'"):
        list_shards(corpus("jsonl", tmp_path, ids="column"))


def test_blank_lines_at_the_end_do_not_count_as_rows(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", PAIR, b"", b"")
    write_lines(tmp_path / "en.jsonl", PAIR)
    assert items(tmp_path) == {"1": ["de", "en"]}


def test_language_of_a_file_is_at_the_end_of_its_name(tmp_path: Path):
    for name in ("train-de", "train-en", "dev_de", "dev_en", "dev.pt-BR"):
        write_lines(tmp_path / f"{name}.jsonl", *[PAIR] * (1 + name.startswith("train")))
    assert items(tmp_path) == {
        "dev:1": ["pt-BR", "de", "en"], "train:1": ["de", "en"], "train:2": ["de", "en"]
    }  # fmt: skip
    assert set(items(tmp_path, languages=["en"])) == {"train-en.jsonl:1", "train-en.jsonl:2", "dev_en.jsonl:1"}


def test_usual_word_at_the_end_of_a_name_is_no_language(tmp_path: Path):
    write_lines(tmp_path / "faq_new.jsonl", PAIR)
    with pytest.raises(CorpusError, match=r"neither the name of faq_new\.jsonl nor a column names a language"):
        items(tmp_path)


def test_column_of_languages_comes_before_the_name_of_the_file(tmp_path: Path):
    write_lines(tmp_path / "faq-de.jsonl", {**GOOD, "lang": "fr"})
    assert items(tmp_path) == {"a": ["fr"]}


def test_language_setting_is_that_of_every_row(tmp_path: Path):
    write_lines(tmp_path / "all.jsonl", GOOD)
    assert items(tmp_path / "all.jsonl", language="pt_br") == {"a": ["pt-BR"]}
    with pytest.raises(CorpusError, match=r"neither the name of all\.jsonl nor a column names a language .*'context'"):
        list_shards(corpus("jsonl", tmp_path))
    with pytest.raises(CorpusError, match="has no de; choose languages among en"):
        list_shards(corpus("jsonl", tmp_path, language="en", languages=["de"]))
    (tmp_path / "all.jsonl").rename(tmp_path / "de.jsonl")
    with pytest.raises(CorpusError, match="named by another language than language: en"):
        list_shards(corpus("jsonl", tmp_path, language="en"))


def test_one_file_without_ids_is_said_to_have_no_translations(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_lines(tmp_path / "all.jsonl", {**PAIR, "lang": "de"}, {**PAIR, "lang": "en"})
    assert items(tmp_path) == {"all.jsonl:1": ["de"], "all.jsonl:2": ["en"]}
    assert "no column of ids, so a row is an item of one language" in caplog.text


def test_negatives_are_a_list_a_text_or_numbered_columns(tmp_path: Path):
    records = ({**PAIR, "negative_1": "Hier.", "negative_2": ""}, {**PAIR, "negative_1": "Da.", "negative_2": "Fern."})
    write_lines(tmp_path / "de.jsonl", *records)
    rows = read(corpus("jsonl", tmp_path))
    assert [row.negatives for row in rows if isinstance(row, CorpusRow)] == [("Hier.",), ("Da.", "Fern.")]


def test_folders_named_by_a_language_are_read(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / language).mkdir()
        write_lines(tmp_path / language / "train.jsonl", PAIR)
    assert items(tmp_path) == {"1": ["de", "en"]}
    assert items(tmp_path, languages=["en"]) == {"en/train.jsonl:1": ["en"]}
    write_lines(tmp_path / "de" / "train.jsonl", PAIR, PAIR)
    assert set(items(tmp_path)) == {"de/train.jsonl:1", "de/train.jsonl:2", "en/train.jsonl:1"}


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_folder_of_a_single_file_is_not_its_language(format: str, tmp_path: Path):
    (tmp_path / "tmp").mkdir()  # also the code of a language
    write_sheet(tmp_path / "tmp" / f"faq-de.{format}", [{"id": "a", **PAIR}])
    assert items_of(format, tmp_path / "tmp" / f"faq-de.{format}") == [("a", "de", "Wo?", "Dort.")]
    write_sheet(tmp_path / "tmp" / f"faq.{format}", [{"id": "a", "lang": code, **PAIR} for code in ("de", "en")])
    assert [row[1] for row in items_of(format, tmp_path / "tmp" / f"faq.{format}")] == ["de", "en"]


# Columns of several languages

SHEET = [
    {"id": "a", "question_en": "Where?", "context_en": "There.", "question_de": "Wo?", "context_de": "Dort."},
    {"id": "b", "question_en": "Who?", "context_en": "Me.", "question_de": "", "context_de": ""},
]
SHEET_ROWS = [("a", "en", "Where?", "There."), ("b", "en", "Who?", "Me."), ("a", "de", "Wo?", "Dort.")]


def write_sheet(file: Path, rows: list[dict[str, str]]) -> None:
    match file.suffix:
        case ".jsonl" | ".json":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        case suffix:
            separator = "\t" if suffix == ".tsv" else ","
            file.write_text("".join(separator.join(line) + "\n" for line in [rows[0], *(row.values() for row in rows)]))


def items_of(*arguments, **settings) -> list[tuple[str, str, str | None, str]]:
    rows = read(corpus(*arguments, **settings))
    assert all(isinstance(row, CorpusRow) for row in rows), rows
    return [(row.item_id, row.language, row.question, row.passage) for row in rows if isinstance(row, CorpusRow)]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_row_is_an_item_in_the_languages_of_its_columns(format: str, tmp_path: Path):
    write_sheet(tmp_path / f"sheet.{format}", SHEET)
    assert items_of(format, tmp_path) == SHEET_ROWS
    assert items_of(format, tmp_path, languages=["de"]) == SHEET_ROWS[2:]


def test_rows_without_ids_are_numbered_alike_in_all_languages(tmp_path: Path):
    write_sheet(tmp_path / "sheet.csv", [{key: value for key, value in row.items() if key != "id"} for row in SHEET])
    ids = [item_id for item_id, *_ in items_of("csv", tmp_path)]
    assert ids[0] == ids[2] != ids[1]


def test_language_without_columns_is_refused_by_name(tmp_path: Path):
    write_sheet(tmp_path / "sheet.csv", SHEET)
    with pytest.raises(CorpusError, match="fr"):
        items_of("csv", tmp_path, languages=["fr"])


def test_sheet_is_recognized_by_inspection(tmp_path: Path):
    write_sheet(tmp_path / "sheet.csv", SHEET)
    found = detect_corpus(str(tmp_path))
    assert items_of(found.format, tmp_path, **found.model_dump(exclude={"format", "path", "name"})) == SHEET_ROWS


@pytest.mark.parametrize(
    ("names", "languages"),
    [
        (["Question (EN)", "Answer (EN)", "Question (pt-BR)", "Answer (pt-BR)"], ["en", "pt-BR"]),
        (["query-en", "positive-en", "query-sw"], ["en"]),  # no passage in Swahili
        (["question", "context", "question_id"], []),  # not Indonesian
        (["question_id", "question_en", "context_id", "context_en"], ["en"]),
        (["Question (EN)", "Answer (EN)", "Question (ID)", "Answer (ID)"], ["en", "id"]),
        (["question_id", "context_id"], ["id"]),
        (["questionen", "contexten"], []),
        (["source_en", "target_de"], []),
    ],
)
def test_columns_of_a_language_are_question_and_passage(names: list[str], languages: list[str]):
    assert list(columns_by_language(Columns(), names)) == languages


def test_columns_that_end_in_id_are_indonesian_if_it_is_configured():
    names = ["question_id", "question_en", "context_id", "context_en"]
    assert list(columns_by_language(Columns(), names, ["en", "id"])) == ["id", "en"]
