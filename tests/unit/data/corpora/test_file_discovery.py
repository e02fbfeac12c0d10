"""The files of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.corpora import list_shards
from hbt_ray.errors import CorpusError
from tests.helpers.corpus_files import GOOD, corpus, write_lines


def test_each_language_file_is_one_shard_and_others_are_ignored(tmp_path: Path):
    for name in ("zh-HK.jsonl", "pt-BR.jsonl.gz", "pcm.jsonl", "es-419.jsonl", "en-questions.jsonl.gz", "SOURCE.md"):
        write_lines(tmp_path / name, GOOD)
    shards = list_shards(corpus("jsonl", tmp_path))
    assert [shard.language for shard in shards] == ["es-419", "pcm", "pt-BR", "zh-HK"]
    assert {shard.source for shard in shards} == {"source"}


def test_missing_language_is_named_with_the_available_ones(tmp_path: Path):
    for language in ("de", "en"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    with pytest.raises(CorpusError, match="has no sw; choose languages among de, en"):
        list_shards(corpus("jsonl", tmp_path, languages=["de", "sw"]))


@pytest.mark.parametrize("format", ["squad", "jsonl", "parquet", "huggingface"])
def test_missing_folder_is_named(format: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"nothing at '.*absent'; correct its path"):
        list_shards(corpus(format, tmp_path / "absent"))


@pytest.mark.parametrize(("format", "suffix"), [("squad", "json"), ("jsonl", "jsonl"), ("parquet", "parquet")])
def test_folder_without_files_of_the_format_is_refused(format: str, suffix: str, tmp_path: Path):
    with pytest.raises(CorpusError, match=rf"name each file by its language, such as de\.{suffix}"):
        list_shards(corpus(format, tmp_path))


def test_two_files_of_one_language_are_refused(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    write_lines(tmp_path / "de.jsonl.gz", GOOD)
    with pytest.raises(CorpusError, match=r"de\.jsonl and de\.jsonl\.gz .* both hold de; keep one"):
        list_shards(corpus("jsonl", tmp_path))


def test_link_is_read_only_if_it_stays_in_the_folder(tmp_path: Path):
    outside, folder = tmp_path / "outside.jsonl", tmp_path / "corpus"
    folder.mkdir()
    write_lines(outside, GOOD)
    write_lines(folder / "de.jsonl", GOOD)
    (folder / "at.jsonl").symlink_to("de.jsonl")
    assert [shard.language for shard in list_shards(corpus("jsonl", folder))] == ["at", "de"]
    (folder / "fr.jsonl").symlink_to(outside)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        list_shards(corpus("jsonl", folder))
