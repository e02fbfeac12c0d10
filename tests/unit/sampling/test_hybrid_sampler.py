"""Batches of the hybrid sampler over fake manifests."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest

from hbt_ray.config import AlphaSchedule, MixConfig
from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling import HybridStepSampler, rank_slice
from tests.helpers.fake_manifests import fake_manifest, make_sampler, same_batch

WEIGHTS = {"de": 0.6, "en": 0.3, "fr": 0.1}
PHASE = {"first_batch": 150, "alpha": 0.9, "language_weights": WEIGHTS}
PAIR = ("query", "passage")
STRATEGIES = [
    {"strategy": "x-x-mono"},
    {"strategy": "x-y"},
    {"strategy": "x-y", "cross_pairs": "mixed"},
    {"strategy": "x-x"},
    {"strategy": "one-to-k"},
    {"strategy": "hybrid", "alpha": 0.4},
    {"alpha_schedule": AlphaSchedule(points=((0, 1.0), (150, 0.0)))},
    {"alpha": 0.2, "phases": (PHASE,)},
    {"strategy": "hybrid", "with_query_translations": True},
    {"strategy": "x-x", "with_query_translations": True},
]


@pytest.mark.parametrize("mix", STRATEGIES, ids=str)
def test_sampler_batches_are_independent_of_call_order(mix):
    one, other = make_sampler(**mix), make_sampler(**mix)
    forwards = [one.batch(step) for step in range(60)]
    backwards = [other.batch(step) for step in reversed(range(60))][::-1]
    assert all(same_batch(a, b) for a, b in zip(forwards, backwards, strict=True))


@pytest.mark.parametrize("mix", STRATEGIES, ids=str)
def test_sampler_resumes_at_any_step_with_the_same_batches(mix):
    uninterrupted, resumed = make_sampler(**mix), make_sampler(**mix)
    whole = [uninterrupted.batch(step) for step in range(200)]
    assert whole[-1].epoch >= 1
    assert all(same_batch(resumed.batch(step), whole[step]) for step in range(120, 200))


def test_sampler_is_all_monolingual_at_alpha_1_and_never_at_0():
    one, zero = make_sampler(alpha=1.0), make_sampler(alpha=0.0)
    assert {one.batch(step).kind for step in range(300)} == {"monolingual"}
    assert {zero.batch(step).kind for step in range(300)} == {"cross-lingual"}


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_sampler_draws_a_fraction_alpha_of_monolingual_batches(alpha):
    steps = 20_000
    share = make_sampler(alpha=alpha).realised_mix(0, steps)["kind"]["monolingual"]
    assert abs(share - alpha) < 5 * (alpha * (1 - alpha) / steps) ** 0.5


def test_alpha_schedule_keeps_the_batches_of_each_stream():
    schedule = AlphaSchedule(points=((0, 0.2), (100, 0.9)), between="hold")
    scheduled, low, high = make_sampler(alpha_schedule=schedule), make_sampler(alpha=0.2), make_sampler(alpha=0.9)
    assert all(same_batch(scheduled.batch(step), low.batch(step)) for step in range(100))
    assert [scheduled.batch(step).kind for step in range(100, 300)] == [high.batch(n).kind for n in range(100, 300)]
    assert scheduled.intended_mix(0, 200)["kind"]["monolingual"] == pytest.approx((0.2 + 0.9) / 2)


def test_alpha_does_not_change_the_batches_of_a_stream():
    def by_stream(alpha):
        streams = {}
        sampler = make_sampler(alpha=alpha)
        for step in range(400):
            batch = sampler.batch(step)
            key = (batch.kind, batch.query_languages[0], batch.passage_languages[0])
            streams.setdefault(key, []).append(batch.rows.tolist())
        return streams

    low, high = by_stream(0.3), by_stream(0.7)
    for key in low.keys() & high.keys():
        shared = min(len(low[key]), len(high[key]))
        assert low[key][:shared] == high[key][:shared]


def test_batch_languages_follow_its_kind():
    sampler = make_sampler(strategy="hybrid", alpha=0.5, cross_pairs="one")
    for step in range(100):
        batch = sampler.batch(step)
        pairs = set(zip(batch.query_languages.tolist(), batch.passage_languages.tolist(), strict=True))
        assert len(pairs) == 1
        question, passage = pairs.pop()
        assert (question == passage) == (batch.kind == "monolingual")


def test_mixed_cross_lingual_batch_has_several_ordered_pairs():
    batch = make_sampler(strategy="x-y").batch(0)
    pairs = set(zip(batch.query_languages.tolist(), batch.passage_languages.tolist(), strict=True))
    assert len(pairs) > 1
    assert all(question != passage for question, passage in pairs)


def test_x_x_batch_mixes_languages_and_keeps_each_pair_in_one():
    batch = make_sampler(strategy="x-x").batch(0)
    assert batch.kind == "mixed"
    assert batch.query_languages.tolist() == batch.passage_languages.tolist()
    assert len(set(batch.query_languages.tolist())) > 1


def test_sampler_never_draws_an_item_for_a_language_it_lacks():
    # Rows 0..19 of the first shard have no French: group 0 comes first.
    for mix in STRATEGIES:
        sampler = make_sampler(**mix)
        for step in range(150):
            batch = sampler.batch(step)
            passage_languages = batch.passage_languages.reshape(-1, batch.positives)
            french = (batch.query_languages == "fr") | (passage_languages == "fr").any(axis=1)
            assert not (batch.rows[french] < 20).any()


def test_language_weights_are_the_shares_of_monolingual_batches():
    sampler = make_sampler(alpha=1.0, language_weights=WEIGHTS)
    assert sampler.intended_mix(0, 1)["languages"] == pytest.approx({"de-de": 0.6, "en-en": 0.3, "fr-fr": 0.1})
    realised = sampler.realised_mix(0, 20_000)["languages"]
    assert realised == pytest.approx(sampler.intended_mix(0, 1)["languages"], abs=0.02)


def test_language_weights_decide_the_pairs_of_cross_lingual_batches():
    """Weights 4 : 1 : 1 give de-en and de-fr the weight 2 in each order, and en-fr 1: 1/5, 1/5 and 1/10."""
    mixed = make_sampler(
        40, strategy="x-y", language_weights={"de": 4, "en": 1, "fr": 1}, store=fake_manifest([(99, 0)])
    )
    specs = [mixed.batch(step) for step in range(300)]
    pairs = np.stack([np.concatenate([getattr(spec, f"{own}_languages") for spec in specs]) for own in PAIR], axis=1)
    for question, passage, share in (("de", "en", 0.2), ("fr", "de", 0.2), ("en", "fr", 0.1)):
        assert (pairs == [question, passage]).all(axis=1).mean() == pytest.approx(share, abs=0.02)
    one = make_sampler(40, strategy="x-y", cross_pairs="one", language_weights={"de": 4, "en": 1, "fr": 1})
    assert one.intended_mix(0, 1)["languages"]["de-en"] == pytest.approx(0.2)


def test_source_weights_are_the_shares_of_sources():
    sampler = make_sampler(source_weights={"a": 3, "b": 1}, store=fake_manifest(sources=("a", "b")))
    assert sampler.intended_mix(0, 1)["source"] == pytest.approx({"a": 0.75, "b": 0.25})


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            {"language_weights": {"de": 1, "en": 1}},
            "mix.language_weights is of de, en; write a weight for each of de, en, fr",
        ),
        ({"source_weights": {"x": 1}}, "mix.source_weights is of x; write a weight for each of s"),
        ({"phases": ({"first_batch": 9, "source_weights": {"x": 1}},)}, "mix.source_weights is of x"),
    ],
)
def test_weights_of_other_names_are_refused(weights, said):
    with pytest.raises(ConfigError, match=said):
        make_sampler(**weights)


def test_phase_has_the_batches_of_its_mix_and_continues_each_stream():
    changed, before = make_sampler(alpha=0.2, phases=(PHASE,)), make_sampler(alpha=0.2)
    assert all(same_batch(changed.batch(step), before.batch(step)) for step in range(150))
    after = make_sampler(alpha=0.9, language_weights=WEIGHTS)
    kinds = [[(s.batch(n).kind, s.batch(n).query_languages[0]) for n in range(150, 400)] for s in (changed, after)]
    monolingual = [[one for one in of_sampler if one[0] == "monolingual"] for of_sampler in kinds]
    assert monolingual[0] == monolingual[1]
    assert changed.intended_mix(0, 300)["kind"]["monolingual"] == pytest.approx((0.2 + 0.9) / 2)
    same = make_sampler(alpha=0.2, phases=({"first_batch": 150, "alpha": 0.2},))
    assert all(same_batch(same.batch(step), before.batch(step)) for step in range(300))
    items = [batch.rows for batch in map(changed.batch, range(400)) if batch.kind == "monolingual"]
    assert all(len(set(rows.tolist())) == len(rows) for rows in items)


def test_language_sampling_is_uniform_or_by_size():
    # French has 180 items of 200.
    steps = 20_000
    uniform = make_sampler(strategy="x-x-mono", language_sampling="uniform").realised_mix(0, steps)["languages"]
    by_size = make_sampler(strategy="x-x-mono", language_sampling="size").realised_mix(0, steps)["languages"]
    deviation = (1 / 3 * 2 / 3 / steps) ** 0.5
    assert all(abs(share - 1 / 3) < 5 * deviation for share in uniform.values())
    assert abs(by_size["fr-fr"] - 180 / 580) < 5 * deviation


def test_source_in_one_language_has_only_monolingual_batches():
    store = fake_manifest(sources=("parallel",))
    english = Source((Group(("en",), 0),), {"train": (ShardInfo("e/train-0.arrow", 500, ((0, 500),), ""),)})
    both = StoreManifest("text", "uint16", {**store.sources, "english": english})
    sampler = HybridStepSampler(both, MixConfig(alpha=0.5), seed=1, global_batch_pairs=16)
    kinds = {(batch.source, batch.kind) for batch in map(sampler.batch, range(300))}
    assert kinds == {("parallel", "monolingual"), ("parallel", "cross-lingual"), ("english", "monolingual")}


def test_fewer_languages_leave_the_order_within_others_unchanged():
    all_languages = make_sampler(strategy="x-x-mono")
    english = [b.rows.tolist() for b in map(all_languages.batch, range(100)) if b.query_languages[0] == "en"]
    english_only = make_sampler(languages=("en",), strategy="x-x-mono")
    assert [english_only.batch(step).rows.tolist() for step in range(len(english))] == english


def test_sampler_names_the_available_languages_for_an_unknown():
    with pytest.raises(ConfigError, match=r"'sw' is not in the corpora; there are de, en, fr"):
        make_sampler(languages=("de", "sw"))


def test_sampler_memory_does_not_grow_with_the_items():
    sampler = make_sampler(64, store=fake_manifest(shards=((65_573, 0),) * 610), strategy="x-x-mono")
    tracemalloc.start()
    rows = np.concatenate([sampler.batch(step).rows for step in range(0, 600_000, 10_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.min() < 40_000_000 / 10
    assert rows.max() > 40_000_000 * 9 / 10
    assert peak < 40_000_000  # bytes: less than one for each item


def test_sampler_cost_does_not_grow_with_the_items():
    """Work is counted as calls of Python functions, which no other process disturbs."""
    costs = {}
    for shards, size in ((1, 10_000), (2442, 16_384)):
        sampler = make_sampler(
            2000, store=fake_manifest(shards=((size, 0),) * shards), strategy="hybrid", cross_pairs="one"
        )
        assert sum(len(stream.range_starts) for stream in sampler.streams) == 9  # one run each, however many shards
        sampler.batch(0)  # the schedule's first block is laid
        tracemalloc.start()
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        for step in range(1, 40):
            spec = sampler.batch(step)
            for rank in (0, 500, 999):
                assert len(spec.rows[rank_slice(len(spec.rows), 1000, rank)]) == 2
        sys.setprofile(None)
        costs[shards] = (calls, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    (few_calls, few_bytes), (many_calls, many_bytes) = costs.values()
    assert many_calls < 1.2 * few_calls
    assert many_bytes < 1.2 * few_bytes
