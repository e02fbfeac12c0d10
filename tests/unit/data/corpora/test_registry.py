"""Corpora of any format."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora import READERS, CorpusReader, CorpusShard, list_shards, read_shard, reader_of
from hbt_ray.data.types import CorpusRow
from tests.helpers.corpus_files import GOOD, corpus, only_reject, read, write_lines
from tests.helpers.paths import REPOSITORY


def test_languages_of_corpus_and_run_both_narrow_the_shards(tmp_path: Path):
    for language in ("de", "en", "fr"):
        write_lines(tmp_path / f"{language}.jsonl", GOOD)
    config = corpus("jsonl", tmp_path, languages=["fr", "de"])
    assert [shard.language for shard in list_shards(config)] == ["de", "fr"]
    assert [shard.language for shard in list_shards(config, {"en", "fr", "sw"})] == ["fr"]
    assert list_shards(config, {"sw"}) == []


def test_shards_survive_pickling(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    shards = list_shards(corpus("jsonl", tmp_path))
    assert pickle.loads(pickle.dumps(shards)) == shards


@pytest.mark.parametrize(
    ("format", "name"),
    [("jsonl", "de.jsonl.gz"), ("squad", "de.json.gz"), ("squad", "de.json"), ("parquet", "de.parquet")],
)
def test_file_of_another_format_is_one_reject(format: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"\x00\xffnothing of the kind")
    bad = only_reject(read(corpus(format, tmp_path)))
    assert bad.reason == "unreadable file"
    assert bad.location.startswith(name)


def test_file_deleted_after_listing_is_one_reject(tmp_path: Path):
    write_lines(tmp_path / "de.jsonl", GOOD)
    [shard] = list_shards(corpus("jsonl", tmp_path))
    (tmp_path / "de.jsonl").unlink()
    assert only_reject(list(read_shard(shard))).reason == "unreadable file"


def test_embedded_shards_are_read_like_those_of_files():
    pytest.importorskip("hbt_ray.data.corpora.embedded.dataset")
    [shard] = list_shards(CorpusConfig(format="embedded"), {"de"})
    assert isinstance(shard, CorpusShard)
    assert {row.language for row in read_shard(shard) if isinstance(row, CorpusRow)} == {"de"}


@pytest.mark.parametrize("format", READERS)
def test_reader_of_every_format_implements_the_interface(format: str):
    for name in ("list_shards", "read_shard"):
        function, method = getattr(reader_of(format), name), getattr(CorpusReader, name)
        assert ["self", *inspect.signature(function).parameters] == [*inspect.signature(method).parameters]
        assert get_type_hints(function) == get_type_hints(method)


def test_registries_import_no_reader():
    code = """
import sys
import hbt_ray.data.benchmarks, hbt_ray.data.corpora
readers = {*hbt_ray.data.benchmarks.READERS.values(), *hbt_ray.data.corpora.READERS.values()}
assert not readers & set(sys.modules)
assert not {"babel", "datasets", "torch"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
