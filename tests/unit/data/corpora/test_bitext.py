"""Aligned files of sentences as questions and passages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards
from hbt_ray.data.corpora.detection import detect_corpus
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import corpus, only_reject, read


def rows(folder: Path, **settings: object) -> list[tuple[str, str, str | None, str]]:
    return [
        (row.item_id, row.language, row.question, row.passage)
        for row in read(corpus("bitext", folder, **settings))
        if isinstance(row, CorpusRow)
    ]


def test_sentences_of_moses_files_are_question_and_passage(tmp_path: Path):
    (tmp_path / "train.en").write_text("A dog.\n\nA cat.\n")
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"Ein Hund.\nEin Vogel.\nEine Katze.\n"))
    (tmp_path / "README").write_text("text")
    assert rows(tmp_path) == [
        ("train:1", "de", "Ein Hund.", "Ein Hund."),
        ("train:2", "de", "Ein Vogel.", "Ein Vogel."),
        ("train:3", "de", "Eine Katze.", "Eine Katze."),
        ("train:1", "en", "A dog.", "A dog."),
        ("train:3", "en", "A cat.", "A cat."),
    ]


def test_pairs_of_opus_share_items_only_with_each_other(tmp_path: Path):
    for pair in ("de-en", "en-fr"):
        for language in pair.split("-"):
            (tmp_path / f"News.{pair}.{language}").write_text(f"{language}\n")
    assert [row[:2] for row in rows(tmp_path, languages=["en", "de"])] == [
        ("News.de-en:1", "de"), ("News.de-en:1", "en"), ("News.en-fr:1", "en")
    ]  # fmt: skip


def test_files_that_are_not_aligned_are_refused(tmp_path: Path):
    (tmp_path / "train.en").write_text("A dog.\nA cat.\n")
    (tmp_path / "train.de").write_text("Ein Hund.\n")
    with pytest.raises(CorpusError, match=r"equally many lines, but have train\.de 1, train\.en 2; align them"):
        list_shards(corpus("bitext", tmp_path))


def test_published_test_sets_are_read_as_bitext(shared_data: Path):
    shards = list_shards(corpus("bitext", shared_data / "tatoeba", languages=["deu"]))
    assert [shard.language for shard in shards] == ["deu"]
    shards = list_shards(corpus("bitext", shared_data / "ntrex", languages=["deu", "zho-CN"]))
    assert [shard.language for shard in shards] == ["deu", "zho-CN"]


def test_table_beside_files_of_languages_is_not_read(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / f"{language}.txt").write_text(f"{language}\n")
    (tmp_path / "DOCUMENTS.tsv").write_text("news.1\n")
    assert [row[:2] for row in rows(tmp_path)] == [("1", "de"), ("1", "en")]
    assert detect_corpus(str(tmp_path)).format == "bitext"


def test_columns_of_languages_are_bitext(tmp_path: Path):
    file = tmp_path / "pairs.csv"
    file.write_text("id,en,de\n7,A dog.,Ein Hund.\n8,A cat.,\n9,A\n")
    assert rows(file) == [
        ("1", "en", "A dog.", "A dog."),
        ("1", "de", "Ein Hund.", "Ein Hund."),
        ("2", "en", "A cat.", "A cat."),
    ]
    assert [row[:2] for row in rows(tmp_path, languages=["de"])] == [("1", "de")]
    file.write_text("question,answer\nWo?,Dort.\n")
    with pytest.raises(CorpusError, match="needs a column for each language, such as en and de, but has 'question'"):
        list_shards(corpus("bitext", file))


def test_tables_have_the_chosen_languages_together(tmp_path: Path):
    for pair in ("en,de", "en,fr"):
        (tmp_path / f"{pair.replace(',', '-')}.csv").write_text(f"{pair}\nA,B\n")
    assert [row[:2] for row in rows(tmp_path, languages=["de", "fr"])] == [("en-de.csv:1", "de"), ("en-fr.csv:1", "fr")]
    with pytest.raises(CorpusError, match="has no sw; choose languages among de, en, fr"):
        rows(tmp_path, languages=["en", "sw"])


def test_blank_lines_before_the_languages_of_a_table_are_passed_over(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("\nen,de\nA dog.,Ein Hund.\n")
    assert [row[1:3] for row in rows(tmp_path)] == [("en", "A dog."), ("de", "Ein Hund.")]


def test_table_whose_header_is_damaged_is_unreadable(tmp_path: Path):
    (tmp_path / "pairs.csv").write_bytes(b"en,de,\xff\nen,de,fr\nA dog.,Ein Hund.,Un chien.\n")
    reject = only_reject(read(corpus("bitext", tmp_path)))
    assert (reject.reason, reject.detail[:10]) == ("unreadable file", "its header")
