"""Batches of blocks and of pairs of equal texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.collate import build_blocks, build_simcse_pairs
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules
from hbt_ray.sampling import rank_slice
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow
from tests.helpers import tiny_corpus
from tests.unit.pretraining.conftest import make_sampler

RULES = MaskRules.of(tiny_corpus.tokenizer(), 0.15, "tiny")


@settings(max_examples=20)
@given(step=st.integers(0, 500), num_ranks=st.sampled_from([1, 2, 3, 4]))
@pytest.mark.parametrize("objective", ["mlm", "tlm", "contrastive"])
def test_blocks_of_all_ranks_join_to_the_batch(token_store, objective, step, num_ranks):
    whole, fresh = make_sampler(token_store, objective=objective), make_sampler(token_store, objective=objective)
    parts = [fresh.batch(step, rank_slice(8, num_ranks, rank, 2)) for rank in reversed(range(num_ranks))][::-1]
    spec = whole.batch(step)
    assert [part.first_block for part in parts] == [rank_slice(8, num_ranks, r, 2).start for r in range(num_ranks)]
    for name in ("streams", "places"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(spec, name))
    if objective == "contrastive":
        built = [build_simcse_pairs(part, fresh, token_store) for part in parts]
        joined, of = build_simcse_pairs(spec, whole, token_store), ("query_ids", "query_lengths", "query_keys")
    else:
        built = [build_blocks(part, fresh, token_store, RULES, seed=3) for part in parts]
        joined, of = (
            build_blocks(spec, whole, token_store, RULES, seed=3),
            ("ids", "targets", "lengths", "texts_per_block"),
        )
    for name in of:
        assert np.array_equal(np.concatenate([getattr(one, name) for one in built]), getattr(joined, name))


def test_every_block_is_full_for_any_languages(token_store):
    for languages in (None, ("de",), ("en", "fr")):
        sampler = make_sampler(token_store, languages)
        for step in range(5):
            blocks = build_blocks(sampler.batch(step), sampler, token_store, RULES, seed=3)
            assert (blocks.num_blocks, blocks.block_tokens, len(blocks.ids)) == (8, 32, 256)
            assert blocks.lengths.sum() == 256
            ends = np.cumsum(blocks.lengths)[np.cumsum(blocks.texts_per_block) - 1]
            assert ends.tolist() == [32 * (n + 1) for n in range(8)]  # no text extends beyond the end of its block


def test_masks_follow_from_seed_step_and_position_of_the_block(token_store):
    sampler = make_sampler(token_store, ("de",))
    one = build_blocks(sampler.batch(7), sampler, token_store, RULES, seed=3)
    again = build_blocks(sampler.batch(7, slice(4, 6)), sampler, token_store, RULES, seed=3)
    assert np.array_equal(again.targets, one.targets[4 * 32 : 6 * 32])
    other = build_blocks(sampler.batch(7), sampler, token_store, RULES, seed=4)
    assert not np.array_equal(other.targets, one.targets)
    half = build_blocks(sampler.batch(7), sampler, token_store, dataclasses.replace(RULES, share=0.5), seed=3)
    is_target = (half.targets != IGNORE_INDEX).reshape(8, 32)
    assert len({tuple(row) for row in is_target.tolist()}) == 8


def test_blocks_survive_arrow_unchanged(token_store):
    sampler = make_sampler(token_store)
    blocks = build_blocks(sampler.batch(2), sampler, token_store, RULES, seed=3)
    back = dataclass_from_arrow(dataclass_to_arrow(blocks), TokenBlockBatch)
    for name in TokenBlockBatch.__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(blocks, name)), name


def test_simcse_pairs_are_equal_texts_with_equal_hashes(token_store):
    sampler = make_sampler(token_store, objective="contrastive")
    batch = build_simcse_pairs(sampler.batch(0), sampler, token_store)
    assert isinstance(batch, PairBatch)
    assert np.array_equal(batch.query_ids, batch.passage_ids)
    assert np.array_equal(batch.query_keys, batch.passage_keys)
    assert (batch.num_pairs, batch.num_negatives) == (8, 0)
