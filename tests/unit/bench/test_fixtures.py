"""Stores of any size, the encoder and the pairs that speed is timed with."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.bench.fixtures import (
    MAX_TOKENS,
    TextTokens,
    bench_encoder,
    bytes_per_item,
    monolingual_batches,
    tokenize_pairs,
    write_synthetic_store,
)
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import StoreError
from hbt_ray.models.encoder import load_pretrained


def test_synthetic_store_is_valid(tmp_path):
    tokens = TextTokens(4, 8)
    folder = write_synthetic_store(tmp_path / "store", 20_000, tokens, vocabulary=5_000)
    store = TokenStore.open(folder)
    store.verify()
    source = store.manifest.sources["synthetic"]
    assert (source.items(), [shard.items for shard in store.shards]) == (20_000, [16_384, 3_616])
    assert source.languages == ("de", "en")
    rows = np.arange(0, 20_000, 7)
    assert store.item_ids("synthetic", rows) == [f"{row:09d}" for row in rows]
    for field, mean in (("question", 4), ("passage", 8)):
        ids, lengths = store.take("synthetic", field, "en", rows)
        assert (lengths.min(), lengths.max()) == (mean // 2, mean + mean // 2)
        assert 1000 <= ids.min() < ids.max() < 5_000
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
    assert on_disk == pytest.approx(20_000 * bytes_per_item(tokens, 2), rel=0.02)
    assert write_synthetic_store(folder, 20_000, tokens) == folder  # reused


def test_synthetic_store_larger_than_the_disk_is_refused(tmp_path):
    with pytest.raises(
        StoreError, match=r"takes 85000\.0 GB, and .* GB free; give a folder with more free space by --out"
    ):
        write_synthetic_store(tmp_path / "store", 10**12, TextTokens(4, 8))
    assert not list(tmp_path.rglob("*.arrow"))


def test_model_that_is_given_is_the_encoder(tmp_path):
    assert bench_encoder("some/model", tmp_path) == "some/model"


def test_random_pairs_are_reproducible_and_have_the_stated_lengths(tmp_path):
    once, again = (monolingual_batches(None, 3, 16) for _ in range(2))
    assert once == again
    assert once[0] != once[1]
    batch = tokenize_pairs(load_pretrained(bench_encoder(None, tmp_path, quick=True)), once[0], 7)
    assert (batch.step, batch.num_pairs, batch.num_negatives) == (7, 16, 0)
    assert 8 <= batch.query_lengths.min() <= batch.query_lengths.max() <= 42
    assert 16 <= batch.passage_lengths.min() <= batch.passage_lengths.max() <= MAX_TOKENS


def test_pairs_of_xquad_r_are_in_batches_of_one_language(shared_data):
    first = monolingual_batches(str(shared_data / "xquad-r"), 6, 32)
    assert sum("?" in question for question in first[0].questions) > 24  # English; a few are none
    assert all(any("а" <= letter <= "я" for letter in question) for question in first[3].questions)  # Russian
