"""Languages of several positives and of query translations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling import rank_slice
from tests.helpers.fake_manifests import GROUPS, groups_manifest, make_sampler, same_batch


@given(
    groups=GROUPS,
    positives=st.integers(2, 4),
    pairs=st.integers(2, 40),
    seed=st.integers(0, 99),
    sampling=st.sampled_from([0.0, 0.5, 1.0]),
    ranks=st.integers(1, 5),
    step=st.integers(0, 30),
)
def test_positives_are_in_k_different_languages_of_the_item(groups, positives, pairs, seed, sampling, ranks, step):
    store, languages_of = groups_manifest(*groups)
    mix = {"strategy": "one-to-k", "positive_languages": positives, "language_sampling": sampling}
    if max(map(len, groups)) < positives:
        with pytest.raises(ConfigError, match="no one-to-k batch can be made"):
            make_sampler(pairs, None, seed, store, **mix)
        return
    sampler = make_sampler(pairs, None, seed, store, **mix)
    batch = sampler.batch(step)
    assert batch.positives == positives
    drawn = batch.passage_languages.reshape(pairs, positives).tolist()
    for row, question, passages in zip(batch.rows, batch.query_languages, drawn, strict=True):
        assert len(set(passages)) == positives
        assert {question, *passages} <= set(languages_of[row])
    assert len(set(batch.rows.tolist())) == pairs

    other = make_sampler(pairs, None, seed, store, **mix)
    parts = [other.batch(step, rank_slice(pairs, ranks, rank)) for rank in reversed(range(ranks))][::-1]
    for name in ("rows", "query_languages", "passage_languages"):
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(batch, name).tolist()


def test_positive_languages_do_not_depend_on_the_querys():
    sampler = make_sampler(50, None, 1, groups_manifest("abc", items=60)[0], strategy="one-to-k")
    batches = [sampler.batch(step) for step in range(200)]
    questions = np.concatenate([batch.query_languages for batch in batches])
    passages = np.concatenate([batch.passage_languages.reshape(-1, 2) for batch in batches])
    for question in "abc":
        positives = passages[questions == question]
        for language in "abc":
            share = (positives == language).any(axis=1).mean()  # two of three
            assert abs(share - 2 / 3) < 5 * (2 / 9 / len(positives)) ** 0.5


def test_positive_languages_are_drawn_in_proportion_to_size():
    # "a" has 900 items, "b" and "c" 100 each, in the 100 that can be drawn: 2 * 1/11 * 1/10 that neither is "a".
    groups = (Group(("a",), 0), Group(("a", "b", "c"), 0))
    shard = ShardInfo("s/train-0.arrow", 900, ((0, 800), (1, 100)), "")
    store = StoreManifest("text", "uint16", {"s": Source(groups, {"train": (shard,)})})
    sampler = make_sampler(50, None, 1, store, strategy="one-to-k", language_sampling="size")
    passages = np.concatenate([sampler.batch(step).passage_languages.reshape(-1, 2) for step in range(200)])
    share = (passages != "a").all(axis=1).mean()
    assert abs(share - 1 / 55) < 5 * (1 / 55 * 54 / 55 / len(passages)) ** 0.5


@given(
    groups=GROUPS,
    strategy=st.sampled_from(["x-x-mono", "x-y", "x-x", "hybrid", "one-to-k"]),
    cross_pairs=st.sampled_from(["one", "mixed"]),
    pairs=st.integers(2, 40),
    seed=st.integers(0, 99),
    sampling=st.sampled_from([0.0, 1.0]),
    ranks=st.integers(1, 5),
    step=st.integers(0, 30),
)
def test_translations_are_drawn_without_changing_the_batch(
    groups, strategy, cross_pairs, pairs, seed, sampling, ranks, step
):
    store, languages_of = groups_manifest(*groups)
    mix = {"strategy": strategy, "cross_pairs": cross_pairs, "language_sampling": sampling}
    if max(map(len, groups)) < 2:
        with pytest.raises(ConfigError):
            make_sampler(pairs, None, seed, store, with_query_translations=True, **mix)
        return
    without = make_sampler(pairs, None, seed, store, **mix).batch(step)
    assert (without.second_languages == "").all()
    batch = make_sampler(pairs, None, seed, store, with_query_translations=True, **mix).batch(step)
    for row, question, second in zip(batch.rows, batch.query_languages, batch.second_languages, strict=True):
        others = set(languages_of[row]) - {question}
        assert second in others if others else second == ""
    assert same_batch(replace(batch, second_languages=without.second_languages), without)

    other = make_sampler(pairs, None, seed, store, with_query_translations=True, **mix)
    parts = [other.batch(step, rank_slice(pairs, ranks, rank)) for rank in reversed(range(ranks))][::-1]
    assert np.concatenate([part.second_languages for part in parts]).tolist() == batch.second_languages.tolist()


@pytest.mark.parametrize("mix", [{"strategy": "x-x-mono"}, {"strategy": "x-y", "cross_pairs": "one"}], ids=str)
def test_translations_of_a_monolingual_batch_have_one_language(mix):
    sampler = make_sampler(store=groups_manifest("abc")[0], with_query_translations=True, **mix)
    drawn = {}
    for step in range(200):
        batch = sampler.batch(step)
        [second] = set(batch.second_languages)
        drawn.setdefault(batch.query_languages[0], []).append(second)
    assert {question: set(seconds) for question, seconds in drawn.items()} == {
        "a": {"b", "c"},
        "b": {"a", "c"},
        "c": {"a", "b"},
    }


def test_item_without_the_batchs_second_language_takes_the_next():
    store, languages_of = groups_manifest("ab", "abc")
    sampler = make_sampler(store=store, with_query_translations=True, strategy="x-x-mono")
    drawn = set()
    for step in range(200):
        batch = sampler.batch(step)
        if batch.query_languages[0] == "a":
            of_group = {
                languages_of[row]: second for row, second in zip(batch.rows, batch.second_languages, strict=True)
            }
            drawn |= set(of_group.items())
    assert drawn == {(("a", "b"), "b"), (("a", "b", "c"), "b"), (("a", "b", "c"), "c")}


def test_translations_of_a_mixed_batch_have_several_languages():
    batch = make_sampler(with_query_translations=True, strategy="x-x").batch(0)
    assert len(set(zip(batch.query_languages, batch.second_languages, strict=True))) > 3
