"""MIRACL's and Mr. TyDi's files: topics and judgements by language, each language with a pool of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    miracl,
    mrtydi_hub,
    mrtydi_release,
    mrtydi_topics,
    reasons,
    texts,
    write,
    write_objects,
)


def test_miracl_s_languages_have_pools_of_their_own(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo"))
    assert texts(benchmark)["sw:1#0"] == "T sw 1#0"
    assert benchmark.judgements["yo:6"] == {"yo:1#0": 1, "yo:1#1": 0}
    assert (benchmark.split, benchmark.rejects) == ("dev", [])
    only = load("miracl/sw", tmp_path)
    assert (only.name, only.languages) == ("miracl-sw", ["sw"])


def test_a_miracl_topic_without_a_judgement_stays_and_is_told(tmp_path: Path):
    miracl(tmp_path, "sw")
    write(tmp_path / "miracl-v1.0-sw" / "topics" / "topics.miracl-v1.0-sw-dev.tsv", "6\tWhere?\n8\tWho?\n9\tWhy?\n")
    benchmark = load("miracl", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:6", "sw:8", "sw:9"]
    told = [(reject.location, reject.reason) for reject in benchmark.rejects]
    assert told == [("sw:9", "query without a relevant passage")]


def test_miracl_judgements_between_languages_are_kept(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("sw", "en"))
    write(tmp_path / "qrels.miracl-v1.0-sw-en-dev.tsv", "6\tQ0\t2#0\t1\n")
    benchmark = load("miracl", tmp_path)
    assert benchmark.judgements["sw:6"] == {"sw:1#0": 1, "sw:1#1": 0, "en:2#0": 1}


def test_a_language_whose_pool_is_missing_is_told_and_its_queries_stay(tmp_path: Path):
    benchmark = load("miracl", miracl(tmp_path, "sw", "yo", corpora=("sw",)))
    assert len(benchmark.queries) == 4
    assert benchmark.absent == {"yo:1#0": "yo", "yo:2#0": "yo"}
    assert ("yo", "language without passages") in [(reject.location, reject.reason) for reject in benchmark.rejects]


def test_miracl_without_passages_is_told(tmp_path: Path):
    miracl(tmp_path, "sw", corpora=("en",))
    with pytest.raises(CorpusError, match="holds no passages for sw; put their docs"):
        load("miracl", tmp_path)
    with pytest.raises(CorpusError, match="no topics of the split 'test'; splits there: dev"):
        load("miracl", tmp_path, ReadOptions(split="test"))


# Mr. TyDi


@pytest.mark.parametrize("inside", ["mrtydi-v1.1-swahili", "mr.tydi/mrtydi-v1.0-swahili", "sw"])
@pytest.mark.parametrize(
    ("layout", "text"), [(mrtydi_release, "Nyumba\n\nHapa."), (mrtydi_hub, "Nyumba Hapa.")], ids=["release", "hub"]
)
def test_mr_tydi_is_read_as_released_and_as_on_the_hub(
    tmp_path: Path, layout: Callable[[Path], None], text: str, inside: str
):
    layout(tmp_path / inside)
    for folder in (tmp_path, tmp_path / inside):
        benchmark = load("mrtydi", folder)
        assert texts(benchmark) == {"sw:26": "Wapi?", "sw:27": "Nani?", "sw:7#1": text}
        assert (benchmark.split, benchmark.judgements) == ("test", {"sw:26": {"sw:7#1": 1}})
        told = [(reject.location, reject.reason) for reject in benchmark.rejects]
        assert told == [("sw:27", "query without a relevant passage")]


def test_what_mr_tydi_holds_twice_is_read_once(tmp_path: Path):
    for language in ("swahili", "telugu"):
        mrtydi_hub(tmp_path / "hub" / f"mrtydi-v1.1-{language}")
    mrtydi_topics(tmp_path / "hub" / "mrtydi-v1.1-swahili" / "ir-format-data", "topics.test.txt")
    mrtydi_release(tmp_path / "released" / "mrtydi-v1.1-swahili")
    benchmark = load("mrtydi", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:26", "sw:27", "te:26", "te:27"]
    assert reasons(benchmark) == {"query without a relevant passage": 2}
    assert load("mrtydi/te", tmp_path).languages == ["te"]


def test_mr_tydi_s_topics_may_name_their_language_themselves(tmp_path: Path):
    mrtydi_topics(tmp_path, "topics.mrtydi-v1.1-sw.test.txt")
    mrtydi_hub(tmp_path / "mrtydi-v1.1-swahili")
    (tmp_path / "mrtydi-v1.1-swahili" / "test.jsonl.gz").unlink()
    assert load("mrtydi", tmp_path).judgements == {"sw:26": {"sw:7#1": 1}}


def test_what_mr_tydi_lacks_is_told(tmp_path: Path):
    mrtydi_topics(tmp_path / "mrtydi-v1.1-swahili")
    with pytest.raises(CorpusError, match="holds no passages for sw; put docs"):
        load("mrtydi", tmp_path)
    with pytest.raises(CorpusError, match=r"holds no questions of the split 'dev'; put topic.dev.tsv"):
        load("mrtydi", tmp_path, ReadOptions(split="dev"))
    mrtydi_hub(tmp_path / "mrtydi-v1.1-swahili")
    for file in ("qrels.test.txt", "test.jsonl.gz"):
        (tmp_path / "mrtydi-v1.1-swahili" / file).unlink()
    with pytest.raises(CorpusError, match=r"no judgements for .*topic.test.tsv'; put its qrels beside it"):
        load("mrtydi", tmp_path)


# Both


@pytest.mark.parametrize("name", ["miracl", "mrtydi"])
def test_published_topics_and_judgements_are_read_without_a_complaint(shared_data: Path, tmp_path: Path, name: str):
    split = {"miracl": "-dev.tsv.gz", "mrtydi": ".test.txt.gz"}[name]
    version = {"miracl": "miracl-v1.0", "mrtydi": "mrtydi-v1.1"}[name]
    for kind in ("topics", "qrels"):
        file = f"{kind}.{version}-sw{split}"
        (tmp_path / file).write_bytes((shared_data / name / file).read_bytes())
    write_objects(tmp_path / "corpus-sw" / "corpus.jsonl", {"docid": "none", "title": "", "text": "Hakuna."})
    benchmark = load(name, tmp_path)
    assert len(benchmark.queries) == {"miracl": 482, "mrtydi": 670}[name]
    assert reasons(benchmark).keys() == {"judgement of a missing passage"}
