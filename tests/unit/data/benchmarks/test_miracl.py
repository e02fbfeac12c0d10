"""MIRACL."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    miracl,
    texts,
    write,
)


def test_each_language_has_a_pool(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo"))
    assert texts(benchmark)["sw:1#0"] == "T sw 1#0"
    assert benchmark.judgements["yo:6"] == {"yo:1#0": 1, "yo:1#1": 0}
    assert (benchmark.split, benchmark.rejects) == ("dev", [])
    only = load("miracl/sw", tmp_path)
    assert (only.name, only.languages) == ("miracl-sw", ["sw"])


def test_topic_without_a_judgement_is_kept_and_rejected(tmp_path: Path):
    miracl(tmp_path, "sw")
    write(tmp_path / "miracl-v1.0-sw" / "topics" / "topics.miracl-v1.0-sw-dev.tsv", "6\tWhere?\n8\tWho?\n9\tWhy?\n")
    benchmark = load("miracl", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:6", "sw:8", "sw:9"]
    rejects = [(reject.location, reject.reason) for reject in benchmark.rejects]
    assert rejects == [("sw:9", "query without a relevant passage")]


def test_judgements_across_languages_are_read(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("sw", "en"))
    write(tmp_path / "qrels.miracl-v1.0-sw-en-dev.tsv", "6\tQ0\t2#0\t1\n")
    benchmark = load("miracl", tmp_path)
    assert benchmark.judgements["sw:6"] == {"sw:1#0": 1, "sw:1#1": 0, "en:2#0": 1}


def test_queries_of_a_language_without_a_pool_are_kept(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo", corpora=("sw",)))
    assert len(benchmark.queries) == 4
    assert benchmark.absent == {"yo:1#0": "yo", "yo:2#0": "yo"}
    assert ("yo", "language without passages") in [(reject.location, reject.reason) for reject in benchmark.rejects]


def test_missing_passages_and_splits_are_named(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("en",))
    with pytest.raises(CorpusError, match="holds no passages for sw; put their docs"):
        load("miracl", tmp_path)
    with pytest.raises(CorpusError, match="no topics of the split 'test'; splits there: dev"):
        load("miracl", tmp_path, ReadOptions(split="test"))
