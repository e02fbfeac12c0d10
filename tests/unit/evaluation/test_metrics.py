"""Metrics equal `ir_measures` and values worked out on paper."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG

from hbt_ray.errors import UserError
from hbt_ray.evaluation import metrics
from hbt_ray.evaluation.metrics import MAX_TRACKED, metric_rows, tracked_metrics
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard

# Eight judgements worked out on paper: the relevant passages of three questions stand at these ranks.
RANKS = np.array([[1, 3, 6, 10], [2, 4, 5, 0], [7, 0, 0, 0], [0, 0, 0, 0]])


def test_average_precision_on_paper():
    expected = [(1 / 1 + 2 / 3 + 3 / 6 + 4 / 10) / 4, (1 / 2 + 2 / 4 + 3 / 5) / 3, 1 / 7, 0]
    assert metrics.average_precision(RANKS) == pytest.approx(expected)


def test_recall_success_and_reciprocal_rank_on_paper():
    assert metrics.recall(RANKS, 5) == pytest.approx([2 / 4, 3 / 3, 0, 0])
    assert metrics.success(RANKS, 1).tolist() == [1, 0, 0, 0]
    assert metrics.reciprocal_rank(RANKS) == pytest.approx([1, 1 / 2, 1 / 7, 0])


def test_ndcg_on_paper():
    # Grades 3 and 1 at ranks 2 and 1: (1/log2 2 + 3/log2 3) over (3/log2 2 + 1/log2 3).
    value = metrics.ndcg(np.array([[2, 1]]), 10, np.array([[3, 1]]))
    assert value == pytest.approx([(1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))])
    assert metrics.ndcg(np.array([[11, 0]]), 10).tolist() == [0]


def test_rank_distance_by_hand():
    assert metrics.rank_distance(RANKS)[:2].tolist() == [10 - 1, 5 - 2]
    assert np.isnan(metrics.rank_distance(RANKS)[2:]).all()


def test_order_of_the_ranks_does_not_matter():
    mixed = RANKS[:, [2, 0, 3, 1]]
    assert metrics.average_precision(mixed).tolist() == metrics.average_precision(RANKS).tolist()
    assert metrics.rank_distance(mixed)[:2].tolist() == [9, 3]


def test_mean_rank_distance_of_random_orders_is_the_known_one():
    passages, relevant, orders = 13_014, 11, 4_000
    rng = np.random.default_rng(7)
    ranks = np.stack([rng.choice(passages, relevant, replace=False) + 1 for _ in range(orders)])
    distances = metrics.rank_distance(ranks)
    standard_error = distances.std() / np.sqrt(orders)
    expected = (relevant - 1) / (relevant + 1) * (passages + 1)  # 10,845.8
    assert abs(distances.mean() - expected) < 3 * standard_error


@given(st.integers(1, 30).flatmap(lambda n: st.sets(st.integers(1, n), min_size=1)))
def test_metrics_keep_their_bounds(ranks: set[int]):
    row = np.array([[*sorted(ranks), 0, 0]])
    precision, distance = metrics.average_precision(row)[0], metrics.rank_distance(row)[0]
    assert 0 < precision <= 1
    assert (precision == 1) == (max(ranks) == len(ranks))
    assert metrics.success(row, 1)[0] <= metrics.reciprocal_rank(row)[0]
    assert metrics.recall(row, max(ranks))[0] == 1
    assert 0 <= metrics.ndcg(row, 10)[0] <= 1 + 1e-12
    assert np.isnan(distance) if len(ranks) == 1 else len(ranks) - 1 <= distance < max(ranks)


@given(st.data())
def test_better_rank_never_lowers_a_metric(data: st.DataObject):
    ranks = sorted(data.draw(st.sets(st.integers(2, 40), min_size=1, max_size=6)))
    moved = data.draw(st.integers(0, len(ranks) - 1))
    better = [*ranks[:moved], ranks[moved] - 1, *ranks[moved + 1 :]]
    if len(set(better)) < len(better):
        return
    before, after = np.array([ranks]), np.array([better])
    for measure in (metrics.average_precision, metrics.reciprocal_rank, lambda r: metrics.ndcg(r, 10)):
        assert measure(after)[0] >= measure(before)[0] - 1e-12


def _integer_vectors(rng: np.random.Generator, rows: int, width: int = 4) -> np.ndarray:
    """Small whole numbers: every score is exact in float32, and many are equal."""
    return rng.integers(-2, 3, (rows, width)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_ir_measures_with_ties_and_grades(seed: int):
    rng = np.random.default_rng(seed)
    queries, passages = _integer_vectors(rng, 25), _integer_vectors(rng, 90)
    ids = sorted(f"p{n}" for n in range(90))  # p10 before p2: by text, not by number
    width = 6
    relevant = np.stack([rng.choice(90, width, replace=False) for _ in range(25)])
    relevant[np.arange(width) >= rng.integers(1, width + 1, (25, 1))] = -1
    grades = np.where(relevant >= 0, rng.integers(1, 4, relevant.shape), 0)
    ranks = PassageIndex.of(PassageIndexShard(passages)).ranks(queries, relevant)[0]

    scores = queries @ passages.T
    run = {f"q{i}": {ids[j]: float(scores[i, j]) for j in range(90)} for i in range(25)}
    qrels = {
        f"q{i}": {ids[column]: int(grade) for column, grade in zip(relevant[i], grades[i], strict=True) if column >= 0}
        for i in range(25)
    }
    ours = {
        AP: metrics.average_precision(ranks),
        RR: metrics.reciprocal_rank(ranks),
        nDCG @ 10: metrics.ndcg(ranks, 10, grades),
        R @ 10: metrics.recall(ranks, 10),
        Success @ 1: metrics.success(ranks, 1),
    }
    for one in ir_measures.iter_calc(list(ours), qrels, run):
        assert ours[one.measure][int(one.query_id[1:])] == pytest.approx(one.value, abs=1e-6), one


def test_queries_without_relevant_passages_have_zero_metrics():
    ranks = np.zeros((2, 0), int)
    assert metrics.average_precision(ranks).tolist() == [0, 0]
    assert metrics.ndcg(ranks, 10).tolist() == [0, 0]
    assert np.isnan(metrics.rank_distance(ranks)).all()


def test_find_metric_reads_the_metric_in_a_full_name():
    assert metrics.find_metric("xquad-r/cross/map/ar-en").higher_is_better
    assert metrics.find_metric("xquad-r/multi/rank_distance").unit == "ranks"
    with pytest.raises(UserError, match="not a metric"):
        metrics.find_metric("xquad-r/multi")


def test_a_relevant_passage_that_the_pool_lacks_counts_as_never_found():
    ranks = np.array([[1, NOT_RETRIEVED], [NOT_RETRIEVED, 0]])
    assert metrics.average_precision(ranks).tolist() == [0.5, 0]
    assert metrics.recall(ranks, 10).tolist() == [0.5, 0]
    assert metrics.reciprocal_rank(ranks).tolist() == [1, 0]
    assert metrics.success(ranks, 10).tolist() == [1, 0]
    assert metrics.ndcg(ranks, 10)[0] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert np.isnan(metrics.rank_distance(ranks)).all()


def test_reciprocal_rank_up_to_a_depth():
    assert metrics.reciprocal_rank(np.array([[12, 4], [11, 0]]), 10).tolist() == [0.25, 0]


def test_metric_columns_are_unique():
    columns = [metric.column for metric in metrics.METRICS.values()]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize(
    ("full_name", "shown"),
    [
        ("multi/map", "multi mAP"),
        ("multi/rank_distance", "rank distance"),
        ("multi/same_language_first", "multi same language first"),
        ("xquad-r/multi/rank_distance", "xquad-r multi rank distance"),
        ("xquad-r/gap/map", "xquad-r gap mAP"),
        ("xquad-r/gap/map_matched", "xquad-r gap size-matched mAP"),
        ("xquad-r/mono/map/worst-tenth", "xquad-r mono mAP, worst-tenth"),
        ("multi/max_rank", "max rank"),
        ("multi/complete@10", "complete@10"),
        ("miracl/mono/map@1000/de", "miracl mono mAP@1000, de"),
        ("worst_drop/beir-scifact/mono/ndcg@10/de", "worst drop of beir-scifact mono nDCG@10, de"),
    ],
)
def test_display_name_is_the_registered_one(full_name: str, shown: str):
    assert metrics.display_name(full_name) == shown


def test_tracked_metrics_are_few_and_spread_over_benchmarks():
    metrics = {
        f"{benchmark}/{setting}/{name}{part}": 0.5
        for benchmark in map(str, range(8))
        for setting in ("mono", "cross", "multi", "gap")
        for name in ("map", "ndcg@10", "recall@1", "rank_distance")
        for part in ("", "/de", "/de-en")
    }
    tracked = tracked_metrics(metrics)
    assert len(tracked) == MAX_TRACKED
    assert {f"{benchmark}/{setting}/map" for benchmark in range(8) for setting in ("mono", "cross")} <= tracked.keys()
    assert not [name for name in tracked if name.count("/") > 2]


def test_tracked_metrics_of_an_approximate_index_have_its_depth():
    assert tracked_metrics({"a/mono/map@100": 0.5, "a/mono/recall@100": 0.6}) == {"a/mono/map@100": 0.5}


def test_metric_rows_divide_names():
    assert metric_rows({"a/cross/map/de-en": 0.5}) == [
        {"benchmark": "a", "setting": "cross", "metric": "map", "of": "de-en", "value": 0.5}
    ]
