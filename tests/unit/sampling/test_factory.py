"""Samplers and validation batches of a configuration."""

from __future__ import annotations

import pytest

from hbt_ray.config import build_config
from hbt_ray.data.manifest import Split, write_manifest
from hbt_ray.data.token_store import TokenStore, WrittenShard, write_shard
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler, validation_batches
from tests.helpers import tiny_corpus


@pytest.mark.parametrize("consistency", [0.0, 0.5])
def test_samplers_have_the_positives_and_translations_configured(tmp_path, consistency):
    tokenization = tiny_corpus.tokenization()

    def shard(split: Split, numbers: range) -> WrittenShard:
        return write_shard(
            tmp_path, "s", split, 0, [tiny_corpus.token_item(tokenization, n) for n in numbers], "uint16"
        )

    shards = [shard("train", range(20)), shard("validation", range(20, 32))]
    write_manifest(tmp_path, shards, text_fingerprint="text", token_type="uint16")
    held_out = TokenStore.open(tmp_path)
    settings = {
        "mix": {"strategy": "one-to-k", "positive_languages": 3},
        "loss": {"consistency": consistency},
        "train": {"global_batch_pairs": 8, "chunk_pairs": 2, "validation_every": 1, "validation_batches": 2},
    }
    config = build_config(settings)
    batches = [build_batch(training_sampler(config, held_out.manifest).batch(0), held_out)]
    batches += validation_batches(config, held_out)
    seconds = 8 if consistency else 0
    assert [(b.num_pairs, b.positives, len(b.translation_of)) for b in batches] == [(8, 3, seconds)] * 3
