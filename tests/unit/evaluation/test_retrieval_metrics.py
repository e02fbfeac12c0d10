"""Averages over the worst languages, and gaps between pools of one size, equal values worked out separately."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from hbt_ray.data.types import Benchmark, Passage
from hbt_ray.errors import UserError
from hbt_ray.evaluation.metrics import average_precision
from hbt_ray.evaluation.per_query import query_sum
from hbt_ray.evaluation.retrieval_metrics import RetrievalMetrics, compute_retrieval_metrics, judged_queries
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from tests.unit.evaluation.test_evaluator import parallel_benchmark

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
EXTRA = {"de": 3, "en": 1, "tr": 0}  # passages that no query is about


def measured(benchmark: Benchmark) -> RetrievalMetrics:
    rng = np.random.default_rng(5)
    sides = [rng.standard_normal((len(side), 8)).astype(np.float32) for side in (benchmark.queries, benchmark.passages)]
    return compute_retrieval_metrics(benchmark, sides[0], PassageIndex.of(PassageIndexShard(sides[1])))


def with_extra_passages(items: int = 3) -> Benchmark:
    plain = parallel_benchmark(items, tuple(EXTRA))
    extra = [
        Passage(f"{language}:x{number}", language, f"{language} extra {number}")
        for language, count in EXTRA.items()
        for number in range(count)
    ]
    return replace(plain, passages=sorted([*plain.passages, *extra], key=lambda passage: passage.passage_id))


def test_worst_tenth_of_eleven_languages_is_the_worst_two():
    metrics = measured(parallel_benchmark(6, LANGUAGES)).metrics
    for name, order in (("mono/map", 1), ("multi/map", 1), ("multi/rank_distance", -1)):
        values = sorted((metrics[f"tiny/{name}/{language}"] for language in LANGUAGES), reverse=order < 0)
        assert metrics[f"tiny/{name}/worst-tenth"] == pytest.approx((values[0] + values[1]) / 2)
    assert not [name for name in metrics if name.endswith("worst-tenth") and "/cross/" in name]
    assert not [name for name in measured(parallel_benchmark(6, ("en",))).metrics if "worst-tenth" in name]


def test_size_matched_gap_is_the_mean_over_all_parts_of_the_pools():
    benchmark = with_extra_passages()
    result = measured(benchmark)
    smallest = 3  # of tr
    values: dict[tuple[str, str], list[float]] = {}
    rng = np.random.default_rng(5)
    queries, passages = (rng.standard_normal((len(x), 8)) for x in (benchmark.queries, benchmark.passages))
    for query, scores in zip(benchmark.queries, queries @ passages.T, strict=True):
        for language in EXTRA:
            pool = [n for n, passage in enumerate(benchmark.passages) if passage.language == language]
            [relevant] = [n for n in pool if benchmark.passages[n].passage_id in benchmark.judgements[query.query_id]]
            parts = combinations([n for n in pool if n != relevant], smallest - 1)
            ranks = np.array([[1 + sum(scores[n] > scores[relevant] for n in part)] for part in parts])
            values.setdefault((query.language, language), []).append(average_precision(ranks).mean())
    means = {pair: np.mean(of_pair) for pair, of_pair in values.items()}
    gaps = [means[one, one] - np.mean([means[one, other] for other in EXTRA if other != one]) for one in EXTRA]
    assert result.metrics["tiny/gap/map_matched"] == pytest.approx(np.mean(gaps))
    assert result.metrics["tiny/gap/map_matched/de"] == pytest.approx(gaps[0])
    assert result.metrics["tiny/mono/map_matched"] == pytest.approx(np.mean([means[one, one] for one in EXTRA]))
    low, high = result.intervals["tiny/gap/map_matched"]
    assert low < result.metrics["tiny/gap/map_matched"] < high
    assert query_sum(result.per_query, "gap/map_matched").value == pytest.approx(np.mean(gaps))


def test_pools_of_one_size_have_the_same_gap_when_matched():
    metrics = measured(parallel_benchmark(5)).metrics
    assert metrics["tiny/gap/map_matched"] == pytest.approx(metrics["tiny/gap/map"])
    assert measured(parallel_benchmark(5)).intervals["tiny/gap/map"] == pytest.approx(
        measured(parallel_benchmark(5)).intervals["tiny/gap/map_matched"]
    )


def test_interval_of_the_gap_is_over_clusters_of_questions():
    plain = with_extra_passages()
    one, two = (
        replace(plain, queries=[replace(query, cluster=str(n % count)) for n, query in enumerate(plain.queries)])
        for count in (1, 2)
    )
    assert measured(two).intervals["tiny/gap/map"] != measured(plain).intervals["tiny/gap/map"]
    assert measured(one).intervals == {}  # of one nothing is known


def test_a_passage_left_out_of_a_ranking_is_not_in_its_pool():
    benchmark = with_extra_passages()
    excluded = replace(benchmark, excluded={query.query_id: "tr:02" for query in benchmark.queries[:1]})  # q of de:0
    table = measured(excluded).per_query.to_pylist()
    [row] = [row for row in table if row["query_id"] == "de:0" and row["passage_language"] == "tr"]
    # Two passages are left of the smallest pool, so it is used whole.
    assert row["ap_matched"] == pytest.approx(row["ap"])


def test_without_cross_lingual_judgements_pools_are_not_matched():
    plain = with_extra_passages()
    own = {
        query.query_id: {key: 1 for key in plain.judgements[query.query_id] if key.startswith(query.language)}
        for query in plain.queries
    }
    result = measured(replace(plain, judgements=own))
    assert not [name for name in result.metrics if "matched" in name or "/gap/" in name]
    assert result.intervals == {}


def test_the_values_of_a_benchmark_are_known_before_an_evaluation():
    table = judged_queries(parallel_benchmark(4, LANGUAGES))
    assert query_sum(table, "multi/max_rank").value == 1
    assert query_sum(table, "multi/complete@20").value == 1
    assert query_sum(table, "gap/map_matched").value == pytest.approx(0)
    with pytest.raises(UserError, match=r"nothing in a per_query\.parquet counts for multi/complete@10"):
        query_sum(table, "multi/complete@10")  # 11 relevant passages
