"""Held-out items of a token store as a benchmark."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.manifest import write_manifest
from hbt_ray.data.token_store import TokenStore, write_shard
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.validation_benchmark import build_validation_benchmark
from tests.helpers import tiny_corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tiny_corpus.make_held_out_store(tmp_path_factory.mktemp("store"))


def test_held_out_items_have_queries_and_passages_by_language(store: TokenStore):
    benchmark = build_validation_benchmark(store, None, 5)
    assert benchmark.name == "held-out"
    assert len(benchmark.queries) == len(benchmark.passages) == 4 * 3 + 2
    assert benchmark.judgements["de:numbers:item-0050"] == {"de:numbers:item-0050": 1, "en:numbers:item-0050": 1}
    [row] = [n for n in range(5) if store.item_ids("numbers", np.array([n]), "validation") == ["item-0049"]]
    ids, _ = store.take("numbers", "question", "fr", np.array([row]), "validation")
    [text] = [query.text for query in benchmark.queries if query.query_id == "fr:numbers:item-0049"]
    assert text == " ".join(map(str, ids.tolist()))
    assert build_validation_benchmark(store, ("en",), 5).languages == ["en"]


def test_fewer_items_than_are_held_out_are_of_all_groups_of_languages(tmp_path: Path):
    tokenization = tiny_corpus.tokenization()
    languages = [("de",)] * 20 + [("de", "en")] * 15 + [("fr",)] * 10 + [("en", "fr")]
    items = [tiny_corpus.token_item(tokenization, n, of_item) for n, of_item in enumerate(languages)]
    shards = [write_shard(tmp_path, "s", "validation", n, items[n::2], "uint16") for n in range(2)]
    write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16")
    store = TokenStore.open(tmp_path)

    def items_of(most: int) -> list[int]:
        groups = [query.group for query in build_validation_benchmark(store, None, most).queries]
        return [int(group[-4:]) for group in dict.fromkeys(groups)]

    chosen = items_of(20)
    assert Counter(languages[item] for item in chosen) == {("de",): 9, ("de", "en"): 6, ("fr",): 4, ("en", "fr"): 1}
    rows = [int(item[-4:]) for item in store.item_ids("s", np.arange(46), "validation")]
    assert chosen == [item for item in rows if item in chosen]
    assert items_of(46) == items_of(100) == rows


def test_store_without_held_out_items_is_refused(tmp_path: Path):
    tiny_corpus.make_store(tmp_path)
    with pytest.raises(ConfigError, match=r"write prepare.validation_share=0\.05, or name a dev benchmark"):
        build_validation_benchmark(TokenStore.open(tmp_path), None, 5)
