"""The embedded corpus as a benchmark."""

from __future__ import annotations

from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.benchmarks.embedded import POOL_ITEMS
from hbt_ray.data.corpora.embedded.dataset import LANGUAGES, items


def test_pool_has_passages_of_both_splits_in_every_language():
    found = load_benchmark("embedded", None)
    ids = [passage.passage_id for passage in found.passages]
    assert found.name == "embedded"
    assert found.languages == list(LANGUAGES)
    assert ids == sorted(set(ids))
    assert len(ids) == len(LANGUAGES) * POOL_ITEMS
    assert 2 * len(items("test")) < POOL_ITEMS
    assert len(found.queries) == len(LANGUAGES) * len(items("test"))
    assert set(found.judgements) == {query.query_id for query in found.queries}
    for query in found.queries:
        language, _, item_id = query.query_id.partition(":")
        assert query.language == language
        assert found.judgements[query.query_id] == {f"{other}:{item_id}": 1 for other in LANGUAGES}
    assert {passage_id for relevant in found.judgements.values() for passage_id in relevant} <= set(ids)
