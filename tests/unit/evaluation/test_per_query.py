"""Every metric of a report can be recomputed from its per-query table."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hbt_ray.errors import UserError
from hbt_ray.evaluation.per_query import mean_of, query_sum
from hbt_ray.evaluation.retrieval_metrics import compute_retrieval_metrics
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from tests.unit.evaluation.test_evaluator import parallel_benchmark, topic_embedder

# Of MIRACL's languages de has much text and sw little.
LANGUAGES = ("de", "en", "sw")


@pytest.fixture(scope="module")
def measured():
    benchmark = parallel_benchmark(12, LANGUAGES)
    embedder = topic_embedder(benchmark, noise=0.6, bias=0.4)
    vectors = (embedder.queries([own.text for own in side]) for side in (benchmark.queries, benchmark.passages))
    queries, passages = vectors
    return compute_retrieval_metrics(benchmark, queries, PassageIndex.of(PassageIndexShard(passages)))


def test_every_metric_of_a_report_is_the_sum_over_its_queries(measured):
    for name, value in measured.metrics.items():
        if name.endswith("/worst-tenth"):
            continue
        assert query_sum(measured.per_query, name.removeprefix("tiny/")).value == pytest.approx(value), name


def test_report_has_all_forms_of_metric_names(measured):
    names = {name.removeprefix("tiny/") for name in measured.metrics}
    wanted = {
        "mono/map",
        "mono/map/sw",
        "cross/map/de-sw",
        "multi/rank_distance",
        "multi/map/low-resource",
        "gap/map/de",
        "gap/map_matched",
        "multi/map/worst-tenth",
    }
    assert wanted <= names


def test_low_resource_part_has_pairs_with_it_on_either_side(measured):
    pairs = ["de-sw", "en-sw", "sw-de", "sw-en"]
    expected = sum(measured.metrics[f"tiny/cross/map/{pair}"] for pair in pairs) / len(pairs)
    assert query_sum(measured.per_query, "cross/map/low-resource").value == pytest.approx(expected)


def test_the_gap_is_mono_less_cross_of_each_question_language():
    rows = [("q1", "de", "mono", "de", 1.0), ("q2", "de", "mono", "de", 0.5)]
    rows += [("q1", "de", "cross", "en", 0.5), ("q1", "de", "cross", "sw", 0.25), ("q3", "en", "mono", "en", 0.3)]
    names = ("query_id", "language", "setting", "passage_language", "ap")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    table = pa.table({key: list(values) for key, values in columns.items()} | {"group": [row[0] for row in rows]})
    found = query_sum(table, "gap/map")
    assert found.value == pytest.approx(0.75 - (0.5 + 0.25) / 2)  # en has no cross pair
    assert found.keys == (("q1", "de", "de"), ("q1", "de", "en"), ("q1", "de", "sw"), ("q2", "de", "de"))


def test_the_worst_tenth_of_languages_has_no_paired_test(measured):
    with pytest.raises(UserError, match=r"mono/map/worst-tenth has no paired test, .* such as mono/map/en"):
        query_sum(measured.per_query, "mono/map/worst-tenth")


def test_a_table_has_clusters_and_an_earlier_one_the_groups(measured):
    whole = query_sum(measured.per_query, "mono/map")
    assert whole.clusters == whole.groups  # the benchmark has no others
    assert not whole.by_cluster().is_grouped
    earlier = query_sum(measured.per_query.drop_columns(["cluster"]), "mono/map")
    assert earlier.clusters is None
    assert earlier.by_cluster().is_grouped
    assert (whole - earlier).clusters is None
    assert mean_of([whole, earlier]).clusters is None
    assert mean_of([whole, whole]).clusters == whole.clusters


def test_differences_are_paired_and_require_the_same_queries(measured):
    whole = query_sum(measured.per_query, "multi/map")
    assert (whole - whole).value == 0
    assert mean_of([whole, whole - whole]).value == pytest.approx(whole.value / 2)
    with pytest.raises(UserError, match="same queries"):
        whole - query_sum(measured.per_query.slice(0, 30), "mono/map")


@pytest.mark.parametrize("metric", ["mono/map/xx", "cross/map/de-xx"])
def test_unknown_part_of_a_metric_is_an_error(measured, metric):
    with pytest.raises(UserError, match=f"counts for {metric}"):
        query_sum(measured.per_query, metric)
