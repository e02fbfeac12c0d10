"""Slices of a global batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.sampling import rank_slice


@given(ranks=st.integers(1, 9), pairs=st.integers(1, 200))
def test_rank_slices_are_disjoint_in_order_and_cover_the_batch(ranks, pairs):
    batch = np.arange(pairs)
    slices = [batch[rank_slice(pairs, ranks, rank)] for rank in range(ranks)]
    assert np.concatenate(slices).tolist() == batch.tolist()
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@given(ranks=st.integers(1, 9), pairs=st.integers(1, 200), chunk=st.integers(1, 40))
def test_rank_slices_are_whole_chunks_if_there_are_enough(ranks, pairs, chunk):
    slices = [rank_slice(pairs, ranks, rank, chunk) for rank in range(ranks)]
    assert np.concatenate([np.arange(pairs)[sampler] for sampler in slices]).tolist() == list(range(pairs))
    if -(-pairs // chunk) >= ranks:
        assert all(sampler.start % chunk == 0 for sampler in slices)
        assert all(sampler.stop > sampler.start for sampler in slices)
