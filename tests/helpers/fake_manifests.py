"""Manifests that only count items: samplers over 1 to 40 million items without a store."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hbt_ray.config import MixConfig
from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.sampling import BatchSpec, HybridStepSampler


def fake_manifest(shards=((100, 20), (80, 0)), negatives=0, sources=("s",)):
    """Return sources whose shards hold (items in de en fr, items in de en)."""
    groups = (Group(("de", "en"), negatives), Group(("de", "en", "fr"), negatives))
    made = tuple(
        ShardInfo(f"s/train-{n}.arrow", three + two, tuple((g, c) for g, c in ((0, two), (1, three)) if c), "")
        for n, (three, two) in enumerate(shards)
    )
    return StoreManifest("text", "uint16", {name: Source(groups, {"train": made}) for name in sources})


def make_sampler(pairs=16, languages=None, seed=1, store=None, with_query_translations=False, **mix):
    """Return a sampler over a fake manifest, with settings of the mix as keywords."""
    return HybridStepSampler(
        store or fake_manifest(),
        MixConfig(**mix),
        seed=seed,
        global_batch_pairs=pairs,
        languages=languages,
        with_query_translations=with_query_translations,
    )


def same_batch(one: BatchSpec, other: BatchSpec) -> bool:
    """Compare everything that a sampler draws."""
    return (
        (one.step, one.kind, one.source, one.epoch) == (other.step, other.kind, other.source, other.epoch)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.query_languages, other.query_languages)
        and np.array_equal(one.second_languages, other.second_languages)
        and np.array_equal(one.passage_languages, other.passage_languages)
    )


def groups_manifest(*groups, items=40):
    """Return a shard with `items` items of each group of languages, and the languages of each row."""
    named = [Group(tuple(sorted(languages)), 0) for languages in groups]
    shard = ShardInfo("s/train-0.arrow", items * len(named), tuple((g, items) for g in range(len(named))), "")
    rows = [group.languages for group in named for _ in range(items)]
    return StoreManifest("text", "uint16", {"s": Source(tuple(named), {"train": (shard,)})}), rows


GROUPS = st.lists(st.frozensets(st.sampled_from("abcde"), min_size=1), min_size=1, max_size=4, unique=True)
