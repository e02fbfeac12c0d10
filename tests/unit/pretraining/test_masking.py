"""Masking by BERT's rules, compared with transformers' collator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules, mask_tokens
from tests.helpers import tiny_corpus

TOKENS = 400_000
SHARE = 0.15


@pytest.fixture(scope="module")
def rules() -> MaskRules:
    return MaskRules.of(tiny_corpus.tokenizer(), SHARE, "tiny")


@pytest.fixture(scope="module")
def ids(rules) -> np.ndarray:
    """Return tokens of the whole vocabulary, special ones included."""
    drawn = np.random.default_rng(0).integers(0, rules.num_tokens, TOKENS)
    return drawn.astype(np.int32)


def bound(trials: int, share: float) -> float:
    """Return five standard deviations of a binomial fraction."""
    return 5 * math.sqrt(share * (1 - share) / trials)


def shares(ids: np.ndarray, input_ids: np.ndarray, is_target: np.ndarray, rules: MaskRules) -> tuple[float, ...]:
    """Return the fraction of targets among tokens, and of masked, other and unchanged tokens among targets.

    A random token may be the mask token or the token itself, so slightly less than a tenth is another token.
    """
    ordinary = ~np.isin(ids, rules.special_ids)
    masked, kept = input_ids[is_target] == rules.mask_id, input_ids[is_target] == ids[is_target]
    return (
        float(is_target.sum() / ordinary.sum()),
        float(masked.mean()),
        float((~masked & ~kept).mean()),
        float(kept.mean()),
    )


def expected(rules: MaskRules) -> tuple[float, ...]:
    one = 0.1 / rules.num_tokens
    return SHARE, 0.8 + one, 0.1 - 2 * one, 0.1 + one


def test_mask_tokens_has_the_fractions_of_the_rules(rules, ids):
    input_ids, targets = mask_tokens(ids, rules, key=1)
    is_target = targets != IGNORE_INDEX
    found = shares(ids, input_ids, is_target, rules)
    trials = (int((~np.isin(ids, rules.special_ids)).sum()), *[int(is_target.sum())] * 3)
    for share, ours, number in zip(expected(rules), found, trials, strict=True):
        assert abs(ours - share) < bound(number, share)


def test_mask_tokens_has_the_fractions_of_transformers_collator(rules, ids):
    collator = DataCollatorForLanguageModeling(tiny_corpus.tokenizer(), mlm_probability=SHARE, seed=0)
    rows = torch.from_numpy(ids.astype(np.int64)).view(-1, 100)
    batch = collator([{"input_ids": row} for row in rows])
    input_ids, labels = batch["input_ids"].flatten().numpy(), batch["labels"].flatten().numpy()
    is_target = labels != -100
    assert np.array_equal(labels[is_target], ids[is_target])
    found = shares(ids, input_ids, is_target, rules)
    ours = mask_tokens(ids, rules, key=2)
    ours = shares(ids, ours[0], ours[1] != IGNORE_INDEX, rules)
    for share, theirs, mine, number in zip(
        expected(rules), found, ours, (TOKENS, *[int(is_target.sum())] * 3), strict=True
    ):
        assert abs(theirs - mine) < math.sqrt(2) * bound(number, share)


def test_mask_tokens_leaves_special_and_other_tokens_unchanged(rules, ids):
    input_ids, targets = mask_tokens(ids, rules, key=3)
    special = np.isin(ids, rules.special_ids)
    assert special.sum() > 1000
    assert (targets[special] == IGNORE_INDEX).all()
    assert np.array_equal(input_ids[targets == IGNORE_INDEX], ids[targets == IGNORE_INDEX])
    assert np.array_equal(targets[targets != IGNORE_INDEX], ids[targets != IGNORE_INDEX])


def test_random_tokens_are_uniform_over_the_vocabulary(rules):
    ids = np.full(TOKENS, 100, np.int32)
    input_ids, targets = mask_tokens(ids, rules, key=4)
    others = input_ids[(targets != IGNORE_INDEX) & (input_ids != 100) & (input_ids != rules.mask_id)]
    counts = np.bincount(others, minlength=rules.num_tokens)
    drawn = np.delete(counts, [100, rules.mask_id])
    assert len(drawn) == rules.num_tokens - 2
    mean = len(others) / len(drawn)
    assert np.abs(drawn - mean).max() < 6 * math.sqrt(mean)


def test_masks_are_a_function_of_the_key(rules, ids):
    one, again, other = (mask_tokens(ids[:500], rules, key) for key in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])


def test_tokenizer_without_a_mask_token_is_an_error():
    bare = tiny_corpus.tokenizer()
    bare.mask_token = None
    with pytest.raises(ConfigError, match=r"'some/model' has no mask token; write pretrain\.objective=contrastive"):
        MaskRules.of(bare, SHARE, "some/model")
