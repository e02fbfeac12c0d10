"""Masks follow BERT's rules, as transformers' collator applies them, and follow from their key."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.masking import IGNORE_INDEX, MaskRules, mask
from tests.helpers import tiny_corpus

TOKENS = 400_000
SHARE = 0.15


@pytest.fixture(scope="module")
def rules() -> MaskRules:
    return MaskRules.of(tiny_corpus.tokenizer(), SHARE, "tiny")


@pytest.fixture(scope="module")
def ids(rules) -> np.ndarray:
    """Of the whole vocabulary, special tokens too."""
    drawn = np.random.default_rng(0).integers(0, rules.num_tokens, TOKENS)
    return drawn.astype(np.int32)


def bound(trials: int, share: float) -> float:
    """Five deviations of a binomial share."""
    return 5 * math.sqrt(share * (1 - share) / trials)


def shares(ids: np.ndarray, seen: np.ndarray, told: np.ndarray, rules: MaskRules) -> tuple[float, ...]:
    """Of ordinary tokens, how many are to be told; of those, how many are masked, another token, or as they were.

    A random token may be the mask or the token itself, so "another" is rarer than a tenth by as much.
    """
    ordinary = ~np.isin(ids, rules.special_ids)
    masked, kept = seen[told] == rules.mask_id, seen[told] == ids[told]
    return float(told.sum() / ordinary.sum()), float(masked.mean()), float((~masked & ~kept).mean()), float(kept.mean())


def expected(rules: MaskRules) -> tuple[float, ...]:
    one = 0.1 / rules.num_tokens
    return SHARE, 0.8 + one, 0.1 - 2 * one, 0.1 + one


def test_shares_are_those_of_the_rules(rules, ids):
    seen, targets = mask(ids, rules, key=1)
    told = targets != IGNORE_INDEX
    found = shares(ids, seen, told, rules)
    trials = (int((~np.isin(ids, rules.special_ids)).sum()), *[int(told.sum())] * 3)
    for share, own, number in zip(expected(rules), found, trials, strict=True):
        assert abs(own - share) < bound(number, share)


def test_transformers_collator_has_the_same_shares(rules, ids):
    collator = DataCollatorForLanguageModeling(tiny_corpus.tokenizer(), mlm_probability=SHARE, seed=0)
    rows = torch.from_numpy(ids.astype(np.int64)).view(-1, 100)
    batch = collator([{"input_ids": row} for row in rows])
    seen, labels = batch["input_ids"].flatten().numpy(), batch["labels"].flatten().numpy()
    told = labels != -100
    assert np.array_equal(labels[told], ids[told])
    found = shares(ids, seen, told, rules)
    ours = mask(ids, rules, key=2)
    own = shares(ids, ours[0], ours[1] != IGNORE_INDEX, rules)
    for share, theirs, mine, number in zip(expected(rules), found, own, (TOKENS, *[int(told.sum())] * 3), strict=True):
        assert abs(theirs - mine) < math.sqrt(2) * bound(number, share)


def test_special_tokens_are_never_masked_and_what_is_not_told_stays(rules, ids):
    seen, targets = mask(ids, rules, key=3)
    special = np.isin(ids, rules.special_ids)
    assert special.sum() > 1000
    assert (targets[special] == IGNORE_INDEX).all()
    assert np.array_equal(seen[targets == IGNORE_INDEX], ids[targets == IGNORE_INDEX])
    assert np.array_equal(targets[targets != IGNORE_INDEX], ids[targets != IGNORE_INDEX])


def test_random_tokens_are_of_the_whole_vocabulary_alike(rules):
    ids = np.full(TOKENS, 100, np.int32)
    seen, targets = mask(ids, rules, key=4)
    others = seen[(targets != IGNORE_INDEX) & (seen != 100) & (seen != rules.mask_id)]
    counts = np.bincount(others, minlength=rules.num_tokens)
    drawn = np.delete(counts, [100, rules.mask_id])
    assert len(drawn) == rules.num_tokens - 2
    mean = len(others) / len(drawn)
    assert np.abs(drawn - mean).max() < 6 * math.sqrt(mean)


def test_the_same_key_gives_the_same_masks_and_another_key_others(rules, ids):
    one, again, other = (mask(ids[:500], rules, key) for key in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])


def test_a_tokenizer_without_a_mask_token_is_refused():
    bare = tiny_corpus.tokenizer()
    bare.mask_token = None
    with pytest.raises(ConfigError, match=r"'some/model' has no mask token; write pretrain\.objective=contrastive"):
        MaskRules.of(bare, SHARE, "some/model")
