"""Epochs of a stream, seen through the batches of a sampler."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.fake_manifests import fake_manifest, make_sampler


@settings(deadline=None, max_examples=60)
@given(
    items=st.integers(8, 300),
    pairs=st.integers(2, 40),
    seed=st.integers(0, 99),
    strategy=st.sampled_from(["x-x-mono", "x-x"]),
)
def test_epoch_draws_each_item_once_and_no_batch_repeats_one(items, pairs, seed, strategy):
    if items < pairs:
        return
    store = fake_manifest(shards=((items // 2, 0), (items - items // 2, 0)))
    sampler = make_sampler(pairs, ("en",), seed, store, strategy=strategy)
    rows = [sampler.batch(step).rows for step in range(4 * items // pairs + 2)]
    assert all(len(set(batch.tolist())) == pairs for batch in rows)
    if items >= 2 * pairs:
        drawn = np.concatenate(rows)
        for epoch in range(len(drawn) // items):
            assert len(set(drawn[epoch * items : (epoch + 1) * items].tolist())) == items


def test_stream_shorter_than_two_batches_reaches_every_item():
    sampler = make_sampler(16, ("en",), 1, fake_manifest(shards=((20, 0),)), strategy="x-x-mono")
    assert len({row for step in range(60) for row in sampler.batch(step).rows.tolist()}) == 20
