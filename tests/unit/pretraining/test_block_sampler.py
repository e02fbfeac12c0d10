"""The sampler of pretraining."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hbt_ray.errors import ConfigError
from tests.unit.pretraining.conftest import make_sampler


@pytest.mark.parametrize("objective", ["mlm", "tlm"])
def test_epoch_has_every_token_but_a_rest_smaller_than_a_block(token_store, objective):
    sampler = make_sampler(token_store, ("de", "en"), objective=objective)
    for number, stream in enumerate(sampler.streams):
        blocks = stream.tokens // 32
        for epoch in (0, 1):
            first_tokens = [
                int(sampler._windows(number, k // 64)[k % 64]) for k in range(epoch * blocks, (epoch + 1) * blocks)
            ]
            places = [(first + n) % stream.tokens for first in first_tokens for n in range(32)]
            assert len(set(places)) == len(places) == blocks * 32 > stream.tokens - 32


@pytest.mark.parametrize("objective", ["mlm", "contrastive"])
def test_blocks_of_a_language_do_not_depend_on_other_languages(token_store, objective):
    def first_tokens(languages: tuple[str, ...] | None) -> list[int]:
        sampler = make_sampler(token_store, languages, objective=objective)
        german = next(n for n, stream in enumerate(sampler.streams) if stream.languages == ("de",))
        specs = [sampler.batch(step) for step in range(60)]
        return [p for spec in specs for s, p in zip(spec.streams, spec.places, strict=True) if s == german]

    german_only, among_others = first_tokens(("de",)), first_tokens(None)
    assert len(among_others) > 60
    assert among_others == german_only[: len(among_others)]


def test_languages_are_drawn_by_a_power_of_their_size(token_store):
    for exponent in (0.0, 0.5, 1.0):
        sampler = make_sampler(token_store, language_sampling=exponent)
        weights = np.array([stream.tokens**exponent for stream in sampler.streams])
        assert sampler.probabilities == pytest.approx(weights / weights.sum())
        drawn = np.concatenate([sampler.batch(step).streams for step in range(500)])
        for share, count in zip(sampler.probabilities, np.bincount(drawn, minlength=3), strict=True):
            assert abs(count / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_contrastive_epoch_has_batches_of_one_language(token_store):
    sampler = make_sampler(token_store, ("de",), objective="contrastive")
    texts = sampler.streams[0].texts
    assert texts == 120
    epoch = np.concatenate([sampler.batch(step).places for step in range(texts // 8)])
    assert sorted(epoch.tolist()) == list(range(120))
    mixed = make_sampler(token_store, objective="contrastive")
    assert all(len(set(mixed.batch(step).streams.tolist())) == 1 for step in range(50))
    assert len({int(mixed.batch(step).streams[0]) for step in range(50)}) == 3


@pytest.mark.parametrize(
    ("languages", "settings", "message"),
    [
        (("de", "xx"), {}, "'xx' is not in the corpora; there are de, en, fr"),
        (("de",), {"objective": "tlm"}, "no item has two of de; add a parallel corpus or write pretrain.objective=mlm"),
        (None, {"block_tokens": 4096}, "fr has .* tokens to pretrain on, less than a block of 4096; write a smaller"),
        (None, {"objective": "contrastive", "global_batch_blocks": 110}, "fr has 96 texts .* takes 110"),
    ],
)
def test_too_little_text_is_an_error_with_the_way_out(token_store, languages, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_sampler(token_store, languages, **settings)
