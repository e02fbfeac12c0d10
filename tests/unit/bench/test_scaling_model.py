"""Analytic model of training speed, and the feed of several ranks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hbt_ray.bench.fixtures import TextTokens, write_synthetic_store
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.scaling_model import Assumptions, bench_scaling, check_ranks, override_assumptions, predict_step
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return TokenStore.open(write_synthetic_store(tmp_path_factory.mktemp("scale"), 8_000, TextTokens(4, 8)))


def test_pairs_of_64_ranks_join_to_the_batch(store, monkeypatch):
    check_ranks(store, 64, steps=3)
    monkeypatch.setattr("hbt_ray.bench.scaling_model.rank_slice", lambda pairs, ranks, rank: slice(0, 32))
    with pytest.raises(UserError, match="the pairs of 64 ranks do not join to the batch of step 0"):
        check_ranks(store, 64, steps=1)


def test_scaling_runs_the_feed_of_64_ranks_and_predicts_from_it(tmp_path):
    result = bench_scaling(BenchSettings(tmp_path, rounds=1, quick=True, assume={"pairs_per_gpu": 64}))
    assert result.details["batches_per_s_by_ranks"].keys() == {"1", "8", "64"}
    assumed = result.details["assumed"]
    assert assumed["pairs_per_gpu"]["value"] == 64
    assert assumed["feed_batches_s"]["value"] == pytest.approx(result.value * 32 / 64)
    assert all(item["unit"] and item["source"] for item in assumed.values())
    assert [row["gpus"] for row in result.details["predicted"]] == [1, 2, 4, 8, 16, 32, 64]
    json.dumps(result.details)


# Numbers that can be worked out on paper: 1,200 parameters in the layers, 1,300 in all.
PAPER = Assumptions(
    pairs_per_gpu=10,
    tokens_per_pair=4,
    layers=1,
    width=10,
    vocabulary=10,
    embedding_rows=10,
    compute_s=0.5,
    memory_bytes_s=1300 * 28 * 4,
    gpus_per_node=2,
    within_node_bytes_s=1300 * 4 * 10,
    between_nodes_gbit_s=1300 * 4 * 2 * 8e-9,
    hop_s=0,
)


def test_one_gpu_communicates_nothing():
    single = predict_step(PAPER, 1)
    assert (single.compute_s, single.optimizer_s, single.gradients_s, single.negatives_s) == (0.5, 0.25, 0, 0)
    assert single.pairs_per_s == pytest.approx(10 / 0.75)
    assert single.efficiency == 1


def test_communication_takes_the_slowest_link_of_the_ring():
    # Within a node 5,200 bytes take 0.1 s, between nodes 0.5 s; a rank's vectors are 10 * (12 * 10 + 16) = 1,360 bytes.
    two, four = predict_step(PAPER, 2), predict_step(PAPER, 4)
    assert two.gradients_s == pytest.approx(0.1)  # 2 * 1/2
    assert two.negatives_s == pytest.approx(1360 / 52_000)
    assert two.pairs_per_s == pytest.approx(20 / (0.85 + 1360 / 52_000))
    assert four.gradients_s == pytest.approx(0.75)  # 2 * 3/4 of 0.5 s
    assert four.negatives_s == pytest.approx(3 * 1360 / 10_400)
    assert four.efficiency == pytest.approx(0.75 / (1.5 + 3 * 1360 / 10_400))


def test_only_the_rows_of_the_global_batch_are_exchanged():
    # 1,200 parameters of the layers and 5 rows of 10 values, then in half as many bytes.
    assert replace(PAPER, embedding_rows=5).exchanged_bytes(2) == 4 * 1250
    assert replace(PAPER, embedding_rows=5, embedding_bytes=2).exchanged_bytes(2) == 4 * 1200 + 2 * 50
    # 64 pairs of 110 tokens have about 3,300 ids, and no batch has more ids than tokens or rows.
    few = replace(PAPER, embedding_rows=0, vocabulary=250_002, pairs_per_gpu=32, tokens_per_pair=114)
    assert (few.exchanged_bytes(2) - 4800) / 40 == pytest.approx(3333, rel=0.01)
    assert replace(few, pairs_per_gpu=1).exchanged_bytes(2) == 4800 + 40 * 228
    assert replace(few, vocabulary=1000).exchanged_bytes(2) == 4800 + 40 * 1000


def test_each_rank_reads_the_ids_of_the_whole_batch():
    given = replace(PAPER, feed_batches_s=10, embedding_rows=0)
    assert [predict_step(given, gpus).feed_s for gpus in (1, 4)] == [0.1, 0.5]


def test_communication_counts_messages_and_overlap():
    given = replace(PAPER, hop_s=0.01, hidden_share=0.5)
    four = predict_step(given, 4)
    assert four.gradients_s == pytest.approx((0.75 + 6 * 0.01) / 2)
    assert four.negatives_s == pytest.approx(3 * 1360 / 10_400 + 15 * 0.01)


def test_feed_slower_than_the_step_limits_the_speed():
    assert predict_step(replace(PAPER, feed_batches_s=0.1), 4).pairs_per_s == pytest.approx(40 / 10)
    assert predict_step(replace(PAPER, feed_batches_s=2), 4) == replace(predict_step(PAPER, 4), feed_s=0.5)


def test_compute_is_derived_from_the_model_where_not_measured():
    given = replace(PAPER, compute_s=0, gpu_flops=1e6, utilisation=0.5, hard_negatives=0)
    # 40 tokens: 6 * 1,200 and 12 * 10 * 2 of attention each; and 6 * 10 for each of 10 * 10 pairs of texts.
    assert predict_step(given, 1).compute_s == pytest.approx((40 * (7200 + 240) + 6000) / 5e5)
    assert predict_step(given, 2).compute_s == pytest.approx((40 * (7200 + 240) + 12000) / 5e5)


def test_unknown_assumption_is_refused():
    assert override_assumptions({"width": 1024}).width == 1024
    with pytest.raises(ConfigError, match="there is no assumption 'speed'; write --assume with one of pairs_per_gpu,"):
        override_assumptions({"speed": 1})
