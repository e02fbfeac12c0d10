"""Mr. TyDi."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_ray.data.benchmarks import ReadOptions
from hbt_ray.errors import CorpusError
from tests.helpers.benchmark_files import (
    load,
    mrtydi_hub,
    mrtydi_release,
    mrtydi_topics,
    reasons,
    texts,
)


@pytest.mark.parametrize("inside", ["mrtydi-v1.1-swahili", "mr.tydi/mrtydi-v1.0-swahili", "sw"])
@pytest.mark.parametrize(
    ("layout", "text"), [(mrtydi_release, "Nyumba\n\nHapa."), (mrtydi_hub, "Nyumba Hapa.")], ids=["release", "hub"]
)
def test_layouts_of_release_and_hub_are_read(tmp_path: Path, layout: Callable[[Path], None], text: str, inside: str):
    layout(tmp_path / inside)
    for folder in (tmp_path, tmp_path / inside):
        benchmark = load("mrtydi", folder)
        assert texts(benchmark) == {"sw:26": "Wapi?", "sw:27": "Nani?", "sw:7#1": text}
        assert (benchmark.split, benchmark.judgements) == ("test", {"sw:26": {"sw:7#1": 1}})
        rejects = [(reject.location, reject.reason) for reject in benchmark.rejects]
        assert rejects == [("sw:27", "query without a relevant passage")]


def test_language_in_both_layouts_is_read_once(tmp_path: Path):
    for language in ("swahili", "telugu"):
        mrtydi_hub(tmp_path / "hub" / f"mrtydi-v1.1-{language}")
    mrtydi_topics(tmp_path / "hub" / "mrtydi-v1.1-swahili" / "ir-format-data", "topics.test.txt")
    mrtydi_release(tmp_path / "released" / "mrtydi-v1.1-swahili")
    benchmark = load("mrtydi", tmp_path)
    assert [query.query_id for query in benchmark.queries] == ["sw:26", "sw:27", "te:26", "te:27"]
    assert reasons(benchmark) == {"query without a relevant passage": 2}
    assert load("mrtydi/te", tmp_path).languages == ["te"]


def test_file_name_of_topics_can_have_the_language(tmp_path: Path):
    mrtydi_topics(tmp_path, "topics.mrtydi-v1.1-sw.test.txt")
    mrtydi_hub(tmp_path / "mrtydi-v1.1-swahili")
    (tmp_path / "mrtydi-v1.1-swahili" / "test.jsonl.gz").unlink()
    assert load("mrtydi", tmp_path).judgements == {"sw:26": {"sw:7#1": 1}}


def test_missing_files_are_named(tmp_path: Path):
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
