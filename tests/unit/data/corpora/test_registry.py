"""Which parts a corpus has, whatever its format, and that a file which cannot be read ends in one reject."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora import CorpusShard, list_shards, read_shard
from hbt_ray.data.text_files import rejected_row
from hbt_ray.data.types import CorpusRow
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import GOOD, corpus, only_reject, read, write_lines


def test_a_part_per_language_file_in_order_and_nothing_else(tmp_path: Path):
    for name in ("zh-HK.jsonl", "pt-BR.jsonl.gz", "pcm.jsonl", "es-419.jsonl", "en-questions.jsonl.gz", "SOURCE.md"):
        write_lines(tmp_path / name, GOOD)
    parts = list_shards(corpus("jsonl", tmp_path))
    assert [part.language for part in parts] == ["es-419", "pcm", "pt-BR", "zh-HK"]
    assert {part.source for part in parts} == {"source"}


def test_languages_of_the_corpus_and_of_the_run_both_narrow(tmp_path: Path):
    for language in ("de", "en", "fr"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    config = corpus("jsonl", tmp_path, languages=["fr", "de"])
    assert [part.language for part in list_shards(config)] == ["de", "fr"]
    assert [part.language for part in list_shards(config, {"en", "fr", "sw"})] == ["fr"]
    assert list_shards(config, {"sw"}) == []


def test_a_missing_language_is_named_with_those_that_are_there(tmp_path: Path):
    for language in ("de", "en"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    with pytest.raises(CorpusError, match="has no sw; choose languages among de, en"):
        list_shards(corpus("jsonl", tmp_path, languages=["de", "sw"]))


@pytest.mark.parametrize("format", ["squad", "jsonl", "parquet", "huggingface"])
def test_a_missing_folder_is_named(format: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"nothing at '.*absent'; correct its path"):
        list_shards(corpus(format, tmp_path / "absent"))


@pytest.mark.parametrize(("format", "suffix"), [("squad", "json"), ("jsonl", "jsonl"), ("parquet", "parquet")])
def test_a_folder_without_readable_files_says_how_to_name_them(format: str, suffix: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=rf"name each file by its language, such as de\.{suffix}"):
        list_shards(corpus(format, tmp_path))


def test_two_files_of_one_language_are_refused(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    write_lines(tmp_path / "de.jsonl.gz", GOOD)
    with pytest.raises(CorpusError, match=r"de\.jsonl and de\.jsonl\.gz .* both hold de; keep one"):
        list_shards(corpus("jsonl", tmp_path))


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_read(tmp_path: Path):
    outside, folder = tmp_path / "outside.jsonl", tmp_path / "corpus"
    folder.mkdir()
    write_lines(outside, GOOD)
    write_lines(folder / "de.jsonl", GOOD)
    (folder / "at.jsonl").symlink_to("de.jsonl")
    assert [part.language for part in list_shards(corpus("jsonl", folder))] == ["at", "de"]
    (folder / "fr.jsonl").symlink_to(outside)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        list_shards(corpus("jsonl", folder))


def test_parts_survive_pickling(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    parts = list_shards(corpus("jsonl", tmp_path))
    assert pickle.loads(pickle.dumps(parts)) == parts


@pytest.mark.parametrize(
    ("format", "name"),
    [("jsonl", "de.jsonl.gz"), ("squad", "de.json.gz"), ("squad", "de.json"), ("parquet", "de.parquet")],
)
def test_a_file_of_something_else_is_one_reject(format: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"\x00\xffnothing of the kind")
    bad = only_reject(read(corpus(format, tmp_path)))
    assert bad.reason == "unreadable file"
    assert bad.location.startswith(name)


def test_a_file_gone_since_it_was_listed_is_one_reject(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    [part] = list_shards(corpus("jsonl", tmp_path))
    (tmp_path / "de.jsonl").unlink()
    assert only_reject(list(read_shard(part))).reason == "unreadable file"


def test_a_reject_shows_at_most_200_characters():
    assert rejected_row("source", "here", "wrong type", "x" * 1000).detail == "x" * 200
    assert len(rejected_row("source", "here", "wrong type", "\ud800" * 1000).detail) == 200


def test_a_part_of_the_embedded_corpus_is_read_like_any_other():
    pytest.importorskip("hbt_ray.data.corpora.embedded.dataset")
    [part] = list_shards(CorpusConfig(format="embedded"), {"de"})
    assert isinstance(part, CorpusShard)
    assert {row.language for row in read_shard(part) if isinstance(row, CorpusRow)} == {"de"}
