"""The format of files that were never seen, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.corpora import read_shard
from hbt_ray.data.corpora.detection import detect_corpus, detect_format, list_sample_shards
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import ConfigError, CorpusError


@pytest.mark.parametrize(
    ("names", "format"),
    [
        ("de.jsonl en.jsonl README.md", "jsonl"),
        ("de.csv.gz", "csv"),
        ("faq-de.tsv faq-en.tsv notes.csv", "tsv"),
        ("train.parquet", "parquet"),
        ("de.json en.json", "json"),
        ("memory.tmx", "tmx"),
        ("de.txt en.txt README.txt", "bitext"),
        ("news.de news.en.gz LICENSE", "bitext"),
        ("Tatoeba.de-en.de Tatoeba.de-en.en", "bitext"),
        ("collection.tsv queries.train.tsv qrels.train.tsv", "msmarco"),
        ("dataset_dict.json", "huggingface"),
    ],
)
def test_format_is_that_of_most_files(names: str, format: str, tmp_path: Path):
    for name in names.split():
        (tmp_path / name).write_text("")
    assert detect_format(str(tmp_path)) == format


def test_json_with_paragraphs_is_squad(tmp_path: Path):
    (tmp_path / "de.json").write_text('{"version": "1.1", "data": [{"title": "A", "paragraphs": []}]}')
    assert detect_format(str(tmp_path)) == detect_format(str(tmp_path / "de.json")) == "squad"


def test_benchmark_is_no_corpus(tmp_path: Path):
    for name in ("corpus.jsonl.gz", "queries.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(CorpusError, match="in the format of BEIR and no corpus; `hbt evaluate --benchmark beir/"):
        detect_format(str(tmp_path))


def test_name_of_a_data_set_is_one_on_the_hub():
    assert detect_format("sentence-transformers/all-nli") == "huggingface"
    with pytest.raises(CorpusError, match=r"nothing at '\./absent/set'; correct the path"):
        detect_format("./absent/set")


def test_files_of_no_format_are_listed_with_the_formats(tmp_path: Path):
    (tmp_path / "faq.xlsx").write_text("")
    for number in range(9):
        (tmp_path / f"set-{number}").mkdir()
    listed = r"has faq\.xlsx and the folders set-0, .* and 3 more, each .*; rows are read from \.csv, \.tsv"
    with pytest.raises(CorpusError, match=listed):
        detect_format(str(tmp_path))


def test_columns_of_unusual_names_are_guessed_by_their_texts(tmp_path: Path):
    lines = ["Nr,Thema,Antwort,Frage", *(f"{n},Post,Die lange Antwort auf die Frage {n}.,Frage {n}?" for n in range(9))]
    (tmp_path / "de.csv").write_text("\n".join(lines))
    columns = detect_corpus(str(tmp_path)).columns
    assert (columns.question, columns.passage) == ("Frage", "Antwort")


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("Where is it?\tOver there.", ("id", "1", "2", "negatives")),
        ("Where is it?\tOver there.\tNot here.", ("id", "1", "2", "3")),
        ("q1\tWhere is it?\tOver there.", ("1", "2", "3", "negatives")),
    ],
)
def test_columns_without_a_header_are_numbered(line: str, columns: tuple[str, ...], tmp_path: Path):
    (tmp_path / "en.tsv").write_text(f"{line}\n" * 3)
    found = detect_corpus(str(tmp_path)).columns
    assert (found.id, found.question, found.passage, found.negatives) == columns


def test_what_was_found_is_written_out(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / f"faq-{language}.csv").write_text("query,answer\nWo?,Dort.\n")
    corpus = detect_corpus(str(tmp_path), ["name=faq"])
    assert (corpus.name, corpus.ids, corpus.columns.question, corpus.columns.passage) == (
        "faq",
        "rows",
        "query",
        "answer",
    )


def test_unknown_setting_is_refused_with_the_nearest(tmp_path: Path):
    (tmp_path / "de.csv").write_text("query,answer\nWo?,Dort.\n")
    with pytest.raises(ConfigError, match="there is no setting 'langauge'; did you mean 'language'"):
        detect_corpus(str(tmp_path), ["langauge=de"])


def test_data_set_is_described_by_its_first_rows(tmp_path: Path):
    (tmp_path / "train.csv").write_text("anchor,positive\n" + "Where?,There.\n" * 3)
    corpus = detect_corpus(str(tmp_path), ["format=huggingface", "language=en"])
    assert (corpus.columns.question, corpus.columns.passage, corpus.ids) == ("anchor", "positive", "unique")
    [shard] = list_sample_shards(corpus)
    rows = [row for row in read_shard(shard) if isinstance(row, CorpusRow)]
    assert [(row.item_id, row.question) for row in rows] == [(f"{tmp_path.name}:{n}", "Where?") for n in (1, 2, 3)]
