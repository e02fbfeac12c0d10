"""The order of training. `manifest` fakes a store's counts, so that sizes from 1 to 40 million cost nothing."""

import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import AlphaSchedule, MixConfig
from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.sampling import HybridBatchSampler, monolingual_probability, rank_slice


def manifest(shards=((100, 20), (80, 0)), negatives=0, sources=("s",)):
    """Return sources whose shards hold (items in de en fr, items in de en)."""
    groups = (Group(("de", "en"), negatives), Group(("de", "en", "fr"), negatives))
    made = tuple(
        ShardInfo(f"s/train-{n}.arrow", three + two, tuple((g, c) for g, c in ((0, two), (1, three)) if c), "")
        for n, (three, two) in enumerate(shards)
    )
    return StoreManifest("text", "uint16", {name: Source(groups, {"train": made}) for name in sources})


def plan(pairs=16, languages=None, seed=1, store=None, with_query_translations=False, **mix):
    return HybridBatchSampler(
        store or manifest(),
        MixConfig(**mix),
        seed=seed,
        global_batch_pairs=pairs,
        languages=languages,
        with_query_translations=with_query_translations,
    )


def same(one, other):
    return (
        (one.step, one.kind, one.source, one.epoch) == (other.step, other.kind, other.source, other.epoch)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.query_languages, other.query_languages)
        and np.array_equal(one.second_languages, other.second_languages)
        and np.array_equal(one.passage_languages, other.passage_languages)
    )


STRATEGIES = [
    {"strategy": "x-x-mono"},
    {"strategy": "x-y"},
    {"strategy": "x-y", "cross_pairs": "mixed"},
    {"strategy": "x-x"},
    {"strategy": "one-to-k"},
    {"strategy": "hybrid", "alpha": 0.4},
    {"alpha_schedule": AlphaSchedule(points=((0, 1.0), (150, 0.0)))},
    {"strategy": "hybrid", "with_query_translations": True},
    {"strategy": "x-x", "with_query_translations": True},
]


@pytest.mark.parametrize("mix", STRATEGIES, ids=str)
def test_a_batch_is_the_same_in_any_order_of_calls_and_in_any_plan_object(mix):
    forwards = [plan(**mix).batch(step) for step in range(60)]
    other = plan(**mix)
    backwards = [other.batch(step) for step in reversed(range(60))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))


@pytest.mark.parametrize("mix", STRATEGIES, ids=str)
def test_batches_from_step_k_are_the_tail_of_the_batches_from_0_in_later_epochs_too(mix):
    whole = [plan(**mix).batch(step) for step in range(200)]
    assert whole[-1].epoch >= 1
    resumed = plan(**mix)
    assert all(same(resumed.batch(step), whole[step]) for step in range(120, 200))


@given(ranks=st.integers(1, 9), pairs=st.integers(1, 200))
def test_rank_slices_are_disjoint_in_order_and_join_to_the_batch(ranks, pairs):
    batch = np.arange(pairs)
    slices = [batch[rank_slice(pairs, ranks, rank)] for rank in range(ranks)]
    assert np.concatenate(slices).tolist() == batch.tolist()
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@settings(deadline=None, max_examples=60)
@given(
    items=st.integers(8, 300),
    pairs=st.integers(2, 40),
    seed=st.integers(0, 99),
    strategy=st.sampled_from(["x-x-mono", "x-x"]),
)
def test_no_item_is_twice_in_a_batch_nor_drawn_again_before_all_were_seen(items, pairs, seed, strategy):
    if items < pairs:
        return
    store = manifest(shards=((items // 2, 0), (items - items // 2, 0)))
    own = plan(pairs, ("en",), seed, store, strategy=strategy)
    rows = [own.batch(step).rows for step in range(4 * items // pairs + 2)]
    assert all(len(set(batch.tolist())) == pairs for batch in rows)
    if items >= 2 * pairs:
        drawn = np.concatenate(rows)
        for epoch in range(len(drawn) // items):
            assert len(set(drawn[epoch * items : (epoch + 1) * items].tolist())) == items


def test_a_stream_shorter_than_two_batches_still_reaches_every_item():
    own = plan(16, ("en",), 1, manifest(shards=((20, 0),)), strategy="x-x-mono")
    assert len({row for step in range(60) for row in own.batch(step).rows.tolist()}) == 20


def test_alpha_1_yields_only_monolingual_batches_and_alpha_0_none():
    assert {plan(alpha=1.0).batch(step).kind for step in range(300)} == {"monolingual"}
    assert {plan(alpha=0.0).batch(step).kind for step in range(300)} == {"cross-lingual"}


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_the_realised_share_of_monolingual_batches_is_alpha_within_five_binomial_deviations(alpha):
    steps = 20_000
    share = plan(alpha=alpha).realised_mix(0, steps)["kind"]["monolingual"]
    assert abs(share - alpha) < 5 * (alpha * (1 - alpha) / steps) ** 0.5


@pytest.mark.parametrize(
    ("mix", "shares"),
    [
        ({"strategy": "x-x-mono", "alpha": 0.3}, [1, 1, 1, 1, 1]),
        ({"strategy": "x-y", "alpha": 0.3}, [0, 0, 0, 0, 0]),
        ({"strategy": "x-x", "alpha": 0.3}, [0, 0, 0, 0, 0]),
        ({"alpha": 0.3}, [0.3] * 5),
        ({"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "linear"}}, [0.8, 0.8, 0.7, 0.6, 0.4]),
        ({"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "hold"}}, [0.8, 0.8, 0.8, 0.8, 0.4]),
        (
            {"alpha_schedule": {"points": [[10, 0.8], [20, 0.4]], "between": "cosine"}},
            [0.8, 0.8, 0.6 + 0.2 * np.cos(np.pi / 4), 0.6, 0.4],
        ),
    ],
    ids=str,
)
def test_alpha_at_steps_0_10_12_and_a_half_15_and_30(mix, shares):
    found = monolingual_probability(MixConfig.model_validate(mix), np.array([0, 10, 12.5, 15, 30]))
    assert found == pytest.approx(shares)


def test_a_schedule_of_alpha_meets_the_same_batches_in_each_stream_as_constant_ones():
    schedule = AlphaSchedule(points=((0, 0.2), (100, 0.9)), between="hold")
    scheduled, low, high = plan(alpha_schedule=schedule), plan(alpha=0.2), plan(alpha=0.9)
    assert all(same(scheduled.batch(step), low.batch(step)) for step in range(100))
    assert [scheduled.batch(step).kind for step in range(100, 300)] == [high.batch(n).kind for n in range(100, 300)]
    assert scheduled.intended_mix(0, 200)["kind"]["monolingual"] == pytest.approx((0.2 + 0.9) / 2)


def test_languages_of_a_batch_follow_its_kind():
    own = plan(strategy="hybrid", alpha=0.5)
    for step in range(100):
        batch = own.batch(step)
        pairs = set(zip(batch.query_languages.tolist(), batch.passage_languages.tolist(), strict=True))
        assert len(pairs) == 1
        question, passage = pairs.pop()
        assert (question == passage) == (batch.kind == "monolingual")


def test_mixed_cross_lingual_batches_hold_several_ordered_pairs_and_no_equal_one():
    batch = plan(strategy="x-y", cross_pairs="mixed").batch(0)
    pairs = set(zip(batch.query_languages.tolist(), batch.passage_languages.tolist(), strict=True))
    assert len(pairs) > 1
    assert all(question != passage for question, passage in pairs)


def test_x_x_batches_mix_languages_and_keep_each_pair_in_one():
    batch = plan(strategy="x-x").batch(0)
    assert batch.kind == "mixed"
    assert batch.query_languages.tolist() == batch.passage_languages.tolist()
    assert len(set(batch.query_languages.tolist())) > 1


def test_an_item_that_lacks_a_language_is_never_drawn_for_it():
    # Rows 0..19 of the first shard have no French: group 0 stands first.
    for mix in STRATEGIES:
        own = plan(**mix)
        for step in range(150):
            batch = own.batch(step)
            passage_languages = batch.passage_languages.reshape(-1, batch.positives)
            french = (batch.query_languages == "fr") | (passage_languages == "fr").any(axis=1)
            assert not (batch.rows[french] < 20).any()


def test_two_plans_that_differ_in_alpha_meet_the_same_batches_in_each_stream():
    def by_stream(alpha):
        streams = {}
        own = plan(alpha=alpha)
        for step in range(400):
            batch = own.batch(step)
            key = (batch.kind, batch.query_languages[0], batch.passage_languages[0])
            streams.setdefault(key, []).append(batch.rows.tolist())
        return streams

    low, high = by_stream(0.3), by_stream(0.7)
    for key in low.keys() & high.keys():
        shared = min(len(low[key]), len(high[key]))
        assert low[key][:shared] == high[key][:shared]


def test_uniform_language_sampling_ignores_sizes_and_size_follows_them():
    # French has 180 items of 200.
    steps = 20_000
    uniform = plan(strategy="x-x-mono", language_sampling="uniform").realised_mix(0, steps)["languages"]
    by_size = plan(strategy="x-x-mono", language_sampling="size").realised_mix(0, steps)["languages"]
    deviation = (1 / 3 * 2 / 3 / steps) ** 0.5
    assert all(abs(share - 1 / 3) < 5 * deviation for share in uniform.values())
    assert abs(by_size["fr-fr"] - 180 / 580) < 5 * deviation


def test_a_source_in_one_language_serves_monolingual_batches_only():
    store = manifest(sources=("parallel",))
    english = Source((Group(("en",), 0),), {"train": (ShardInfo("e/train-0.arrow", 500, ((0, 500),), ""),)})
    both = StoreManifest("text", "uint16", {**store.sources, "english": english})
    own = HybridBatchSampler(both, MixConfig(alpha=0.5), seed=1, global_batch_pairs=16)
    kinds = {(batch.source, batch.kind) for batch in map(own.batch, range(300))}
    assert kinds == {("parallel", "monolingual"), ("parallel", "cross-lingual"), ("english", "monolingual")}


def test_restricting_languages_leaves_the_order_within_the_others_unchanged():
    all_languages = plan(strategy="x-x-mono")
    english = [b.rows.tolist() for b in map(all_languages.batch, range(100)) if b.query_languages[0] == "en"]
    alone = plan(languages=("en",), strategy="x-x-mono")
    assert [alone.batch(step).rows.tolist() for step in range(len(english))] == english


def test_items_with_too_few_hard_negatives_are_not_drawn():
    with pytest.raises(ConfigError, match="2 hard negatives"):
        plan(store=manifest(negatives=1), hard_negatives=2)
    assert plan(store=manifest(negatives=2), hard_negatives=2).batch(0).hard_negatives == 2


def test_a_language_that_is_not_in_the_corpora_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match=r"'sw' is not in the corpora; there are de, en, fr"):
        plan(languages=("de", "sw"))


def test_a_batch_larger_than_every_stream_is_refused_with_the_largest_size():
    with pytest.raises(ConfigError, match="has 200 items"):
        plan(pairs=256, strategy="x-x-mono")


def test_streams_smaller_than_a_batch_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="never drawn"):
        own = plan(pairs=190, strategy="x-x-mono")
    assert set(own.realised_mix(0, 1000)["languages"]) == {"de-de", "en-en"}


def test_cross_lingual_batches_of_a_corpus_in_one_language_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="x-x-mono"):
        plan(languages=("en",), strategy="hybrid")


def test_a_plan_over_40_million_items_draws_from_all_of_them_without_holding_an_array_of_them():
    own = plan(64, store=manifest(shards=((65_573, 0),) * 610), strategy="x-x-mono")
    tracemalloc.start()
    rows = np.concatenate([own.batch(step).rows for step in range(0, 600_000, 10_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.min() < 40_000_000 / 10
    assert rows.max() > 40_000_000 * 9 / 10
    assert peak < 40_000_000  # bytes: less than one for each item


def test_a_slice_of_40_million_items_for_1000_workers_costs_what_one_of_10_000_items_does():
    """Work is counted as calls of Python functions, which no other process disturbs."""
    costs = {}
    for shards, size in ((1, 10_000), (2442, 16_384)):
        own = plan(2000, store=manifest(shards=((size, 0),) * shards), strategy="hybrid")
        assert sum(len(stream.range_starts) for stream in own.streams) == 9  # one run each, however many shards
        own.batch(0)  # the schedule's first block is laid
        tracemalloc.start()
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        for step in range(1, 40):
            spec = own.batch(step)
            for rank in (0, 500, 999):
                assert len(spec.rows[rank_slice(len(spec.rows), 1000, rank)]) == 2
        sys.setprofile(None)
        costs[shards] = (calls, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    (few_calls, few_bytes), (many_calls, many_bytes) = costs.values()
    assert many_calls < 1.2 * few_calls
    assert many_bytes < 1.2 * few_bytes


@given(ranks=st.integers(1, 9), pairs=st.integers(1, 200), chunk=st.integers(1, 40))
def test_slices_of_whole_chunks_start_on_the_batch_s_own_grid(ranks, pairs, chunk):
    slices = [rank_slice(pairs, ranks, rank, chunk) for rank in range(ranks)]
    assert np.concatenate([np.arange(pairs)[own] for own in slices]).tolist() == list(range(pairs))
    if -(-pairs // chunk) >= ranks:
        assert all(own.start % chunk == 0 for own in slices)
        assert all(own.stop > own.start for own in slices)


# Several positives


def groups_manifest(*groups, items=40):
    """One shard with so many items of each group of languages; and the languages of each row."""
    named = [Group(tuple(sorted(languages)), 0) for languages in groups]
    shard = ShardInfo("s/train-0.arrow", items * len(named), tuple((g, items) for g in range(len(named))), "")
    rows = [group.languages for group in named for _ in range(items)]
    return StoreManifest("text", "uint16", {"s": Source(tuple(named), {"train": (shard,)})}), rows


GROUPS = st.lists(st.frozensets(st.sampled_from("abcde"), min_size=1), min_size=1, max_size=4, unique=True)


@given(
    groups=GROUPS,
    positives=st.integers(2, 4),
    pairs=st.integers(2, 40),
    seed=st.integers(0, 99),
    sampling=st.sampled_from([0.0, 0.5, 1.0]),
    ranks=st.integers(1, 5),
    step=st.integers(0, 30),
)
def test_each_question_has_passages_in_k_different_languages_of_its_item(
    groups, positives, pairs, seed, sampling, ranks, step
):
    store, languages_of = groups_manifest(*groups)
    mix = {"strategy": "one-to-k", "positive_languages": positives, "language_sampling": sampling}
    if max(map(len, groups)) < positives:
        with pytest.raises(ConfigError, match="no one-to-k batch can be made"):
            plan(pairs, None, seed, store, **mix)
        return
    own = plan(pairs, None, seed, store, **mix)
    batch = own.batch(step)
    assert batch.positives == positives
    drawn = batch.passage_languages.reshape(pairs, positives).tolist()
    for row, question, passages in zip(batch.rows, batch.query_languages, drawn, strict=True):
        assert len(set(passages)) == positives
        assert {question, *passages} <= set(languages_of[row])
    assert len(set(batch.rows.tolist())) == pairs

    other = plan(pairs, None, seed, store, **mix)
    parts = [other.batch(step, rank_slice(pairs, ranks, rank)) for rank in reversed(range(ranks))][::-1]
    for name in ("rows", "query_languages", "passage_languages"):
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(batch, name).tolist()


def test_positives_come_in_all_languages_alike_whatever_the_question_s():
    own = plan(50, None, 1, groups_manifest("abc", items=60)[0], strategy="one-to-k")
    batches = [own.batch(step) for step in range(200)]
    questions = np.concatenate([batch.query_languages for batch in batches])
    passages = np.concatenate([batch.passage_languages.reshape(-1, 2) for batch in batches])
    for question in "abc":
        asked = passages[questions == question]
        for language in "abc":
            share = (asked == language).any(axis=1).mean()  # two of three
            assert abs(share - 2 / 3) < 5 * (2 / 9 / len(asked)) ** 0.5


def test_positives_drawn_by_size_leave_out_the_largest_language_once_in_55_rows():
    # "a" has 900 items, "b" and "c" 100 each, in the 100 that can be drawn: 2 * 1/11 * 1/10 that neither is "a".
    groups = (Group(("a",), 0), Group(("a", "b", "c"), 0))
    shard = ShardInfo("s/train-0.arrow", 900, ((0, 800), (1, 100)), "")
    store = StoreManifest("text", "uint16", {"s": Source(groups, {"train": (shard,)})})
    own = plan(50, None, 1, store, strategy="one-to-k", language_sampling="size")
    passages = np.concatenate([own.batch(step).passage_languages.reshape(-1, 2) for step in range(200)])
    share = (passages != "a").all(axis=1).mean()
    assert abs(share - 1 / 55) < 5 * (1 / 55 * 54 / 55 / len(passages)) ** 0.5


def test_more_positives_than_any_item_has_languages_are_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"has an item in 4 languages of de, en, fr .* a smaller mix\.positive_lang"):
        plan(strategy="one-to-k", positive_languages=4)
    with pytest.raises(ConfigError, match=r"has an item in two languages of en .* write mix\.strategy=x-x-mono"):
        plan(languages=("en",), strategy="one-to-k")


# Second questions


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
def test_each_question_has_a_second_language_of_its_item_where_there_is_one_and_all_else_stays(
    groups, strategy, cross_pairs, pairs, seed, sampling, ranks, step
):
    store, languages_of = groups_manifest(*groups)
    mix = {"strategy": strategy, "cross_pairs": cross_pairs, "language_sampling": sampling}
    if max(map(len, groups)) < 2:
        with pytest.raises(ConfigError):
            plan(pairs, None, seed, store, with_query_translations=True, **mix)
        return
    without = plan(pairs, None, seed, store, **mix).batch(step)
    assert (without.second_languages == "").all()
    batch = plan(pairs, None, seed, store, with_query_translations=True, **mix).batch(step)
    for row, question, second in zip(batch.rows, batch.query_languages, batch.second_languages, strict=True):
        others = set(languages_of[row]) - {question}
        assert second in others if others else second == ""
    assert same(replace(batch, second_languages=without.second_languages), without)

    other = plan(pairs, None, seed, store, with_query_translations=True, **mix)
    parts = [other.batch(step, rank_slice(pairs, ranks, rank)) for rank in reversed(range(ranks))][::-1]
    assert np.concatenate([part.second_languages for part in parts]).tolist() == batch.second_languages.tolist()


@pytest.mark.parametrize("mix", [{"strategy": "x-x-mono"}, {"strategy": "x-y"}], ids=str)
def test_a_batch_in_one_question_language_has_one_second_language_which_changes_from_batch_to_batch(mix):
    own = plan(store=groups_manifest("abc")[0], with_query_translations=True, **mix)
    drawn = {}
    for step in range(200):
        batch = own.batch(step)
        [second] = set(batch.second_languages)
        drawn.setdefault(batch.query_languages[0], []).append(second)
    assert {question: set(seconds) for question, seconds in drawn.items()} == {
        "a": {"b", "c"},
        "b": {"a", "c"},
        "c": {"a", "b"},
    }


def test_an_item_that_lacks_the_batch_s_second_language_is_asked_in_the_next_that_it_has():
    store, languages_of = groups_manifest("ab", "abc")
    own = plan(store=store, with_query_translations=True, strategy="x-x-mono")
    drawn = set()
    for step in range(200):
        batch = own.batch(step)
        if batch.query_languages[0] == "a":
            of_group = {
                languages_of[row]: second for row, second in zip(batch.rows, batch.second_languages, strict=True)
            }
            drawn |= set(of_group.items())
    assert drawn == {(("a", "b"), "b"), (("a", "b", "c"), "b"), (("a", "b", "c"), "c")}


def test_a_mixed_batch_has_with_query_translations_in_several_languages():
    batch = plan(with_query_translations=True, strategy="x-x").batch(0)
    assert len(set(zip(batch.query_languages, batch.second_languages, strict=True))) > 3


def test_consistency_in_one_language_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"^no question has a second language among en .* write loss\.consistency=0$"):
        plan(languages=("en",), with_query_translations=True, strategy="x-x-mono")
