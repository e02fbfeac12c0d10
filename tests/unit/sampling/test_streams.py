"""Streams that a mix can or cannot draw from."""

from __future__ import annotations

import pytest

from hbt_ray.errors import ConfigError
from tests.helpers.fake_manifests import fake_manifest, groups_manifest, make_sampler


def test_streams_leave_out_items_with_too_few_hard_negatives():
    with pytest.raises(ConfigError, match="2 hard negatives"):
        make_sampler(store=fake_manifest(negatives=1), hard_negatives=2)
    assert make_sampler(store=fake_manifest(negatives=2), hard_negatives=2).batch(0).hard_negatives == 2


def test_batch_larger_than_every_stream_is_an_error_with_its_size():
    with pytest.raises(ConfigError, match="has 200 items"):
        make_sampler(pairs=256, strategy="x-x-mono")


def test_batch_of_a_corpus_of_one_item_is_an_error_that_asks_for_items():
    one = groups_manifest({"en"}, items=1)[0]
    with pytest.raises(ConfigError, match="en-en, has 1 item in the train split; add items: a batch takes two or more"):
        make_sampler(pairs=2, store=one, strategy="x-x-mono")
    with pytest.raises(ConfigError, match="has 2 items in the train split; write a smaller global_batch_pairs"):
        make_sampler(pairs=4, store=groups_manifest({"en"}, items=2)[0], strategy="x-x-mono")


def test_streams_smaller_than_a_batch_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="never drawn"):
        sampler = make_sampler(pairs=190, strategy="x-x-mono")
    assert set(sampler.realised_mix(0, 1000)["languages"]) == {"de-de", "en-en"}


def test_cross_lingual_batches_of_one_language_are_an_error():
    with pytest.raises(ConfigError, match="x-x-mono"):
        make_sampler(languages=("en",), strategy="hybrid")


def test_more_positives_than_an_items_languages_are_an_error():
    with pytest.raises(ConfigError, match=r"has an item in 4 languages of de, en, fr .* a smaller mix\.positive_lang"):
        make_sampler(strategy="one-to-k", positive_languages=4)
    with pytest.raises(ConfigError, match=r"has an item in two languages of en .* write mix\.strategy=x-x-mono"):
        make_sampler(languages=("en",), strategy="one-to-k")


def test_query_translations_in_one_language_are_an_error():
    with pytest.raises(ConfigError, match=r"^no question has a second language among en .* write loss\.consistency=0$"):
        make_sampler(languages=("en",), with_query_translations=True, strategy="x-x-mono")
