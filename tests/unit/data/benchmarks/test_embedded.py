"""The embedded corpus as a benchmark."""

from __future__ import annotations

import pytest

from hbt_ray.data.benchmarks import ReadOptions, load_benchmark
from hbt_ray.data.corpora.embedded.dataset import LANGUAGES, items
from hbt_ray.errors import CorpusError


def test_pool_has_passages_of_both_splits_in_every_language():
    found = load_benchmark("embedded", None)
    ids = [passage.passage_id for passage in found.passages]
    assert found.name == "embedded"
    assert found.languages == list(LANGUAGES)
    assert ids == sorted(set(ids))
    assert len(ids) == len(LANGUAGES) * 1000
    assert 2 * len(items("test")) < 1000
    assert len(found.queries) == len(LANGUAGES) * len(items("test"))
    assert set(found.judgements) == {query.query_id for query in found.queries}
    assert len({query.cluster for query in found.queries}) == 13  # relations
    for query in found.queries:
        language, _, item_id = query.query_id.partition(":")
        assert query.language == language
        assert found.judgements[query.query_id] == {f"{other}:{item_id}": 1 for other in LANGUAGES}
    assert {passage_id for relevant in found.judgements.values() for passage_id in relevant} <= set(ids)


def test_small_split_is_a_part_of_the_test_split():
    whole, small = load_benchmark("embedded", None), load_benchmark("embedded", None, ReadOptions(split="small"))
    assert len(small.queries) == len(LANGUAGES) * 200
    assert len(small.passages) == len(LANGUAGES) * 400
    assert {query.query_id for query in small.queries} < {query.query_id for query in whole.queries}
    assert small.judgements.items() <= whole.judgements.items()
    assert small.fingerprint() != whole.fingerprint()


def test_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(CorpusError, match="write one of test, small"):
        load_benchmark("embedded", None, ReadOptions(split="dev"))
