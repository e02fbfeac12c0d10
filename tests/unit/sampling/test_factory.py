"""Samplers and validation batches of a configuration."""

from __future__ import annotations

import pytest

from hbt_ray.config import build_config
from hbt_ray.data.manifest import Group, ShardInfo, Source, Split, StoreManifest, write_manifest
from hbt_ray.data.token_store import TokenStore, WrittenShard, write_shard
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler, validation_batches, validation_sampler
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


def held_out_manifest(**items: int) -> StoreManifest:
    """Return a manifest of items in one language each, for training and held out, that only counts them."""
    groups = tuple(Group((language,), 0) for language in items)
    runs = tuple(enumerate(items.values()))
    shards = {
        split: (ShardInfo(f"s/{split}.arrow", sum(items.values()), runs, ""),) for split in ("train", "validation")
    }
    return StoreManifest("text", "uint16", {"s": Source(groups, shards)})


@pytest.mark.parametrize("most_workers", [2, 8, 18])
def test_validation_batches_do_not_depend_on_the_number_of_workers(most_workers):
    manifest = held_out_manifest(de=18, en=100)

    def drawn(workers: int) -> list[tuple[int, str, list[int]]]:
        train = {"workers": workers, "global_batch_pairs": 288, "chunk_pairs": 1, "validation_every": 1}
        sampler = validation_sampler(build_config({"mix": {"strategy": "x-x-mono"}, "train": train}), manifest)
        assert sampler is not None
        batches = [sampler.batch(step) for step in range(20)]
        return [(len(batch.rows), str(batch.query_languages[0]), batch.rows.tolist()) for batch in batches]

    assert drawn(most_workers) == drawn(1)
    assert {language for _, language, _ in drawn(1)} == {"de", "en"}
    with pytest.raises(ConfigError, match="needs more held-out items than there are"):
        drawn(32)


def test_validation_without_gathering_needs_two_pairs_for_each_worker():
    train = {"global_batch_pairs": 64, "chunk_pairs": 1, "validation_every": 1, "gather_negatives": False}

    def pairs(workers: int) -> int:
        config = build_config({"mix": {"strategy": "x-x-mono"}, "train": {**train, "workers": workers}})
        sampler = validation_sampler(config, held_out_manifest(de=18))
        assert sampler is not None
        return sampler.global_batch_size

    assert pairs(8) == 18
    with pytest.raises(ConfigError, match="needs more held-out items than there are"):
        pairs(16)
