from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError, UserError
from hbt_ray.evaluation.retrieval_metrics import judged_queries
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.results import StudyResults, check_measures, estimate, higher_is_better
from tests.unit.study.example_study import SETTINGS


def test_comparison_finds_the_noise_added_to_a_method(results: StudyResults):
    found = {
        (comparison.method, comparison.metric): comparison
        for comparison in results.comparisons(results.config.measures)
    }
    assert found["untrained", "tiny/multi/map"].models.mean < -0.05
    assert found["untrained", "tiny/multi/map"].p_of_models < 0.05
    assert found["untrained", "tiny/multi/map"].models.clusters == 20
    of_methods = found["untrained", "tiny/multi/map"].methods
    assert of_methods is not None
    assert of_methods.p_value < 0.05 < found["untrained", "tiny/multi/map"].p_of_methods
    values = [results.estimate(method, "tiny/multi/map").values for method in ("untrained", "hybrid")]
    by_seed = [one - other for one, other in zip(*values, strict=True)]
    assert found["untrained", "tiny/multi/map"].by_seed == pytest.approx(by_seed)
    assert found["untrained", "tiny/multi/map"].seeds_agreeing == sum(value < 0 for value in by_seed) == 3
    assert len(found) == 2 * len(SETTINGS["measures"])


def test_drop_is_positive_and_equals_the_worst_of_one_perturbation(results: StudyResults):
    drop = results.estimate("hybrid", "drop/tiny/multi/map")
    assert drop.mean > 0
    assert results.estimate("hybrid", "worst_drop/tiny/multi/map").values == drop.values


def test_drop_of_a_metric_of_which_less_is_better_is_its_rise(results: StudyResults):
    original, changed = (
        results.estimate("hybrid", f"{benchmark}/multi/rank_distance").mean for benchmark in ("tiny", "tiny-case")
    )
    for prefix in ("drop", "worst_drop"):
        found = results.estimate("hybrid", f"{prefix}/tiny/multi/rank_distance").mean
        assert found == pytest.approx(changed - original)
        assert found > 0


def test_interval_over_seeds_is_students():
    found = estimate([0.1, 0.2, 0.3])
    assert (found.mean, found.half_width) == (pytest.approx(0.2), pytest.approx(4.302653 * 0.1 / 3**0.5))
    assert estimate([0.4]).half_width is None


def test_lower_is_better_of_drops_gaps_and_distances():
    names = ["x/multi/map", "drop/x/multi/map", "x/gap/map", "x/multi/rank_distance", "worst_drop/x/mono/map"]
    assert [higher_is_better(name) for name in names] == [True, False, False, False, False]


def test_missing_evaluation_is_refused_with_its_experiment(tmp_path: Path):
    with pytest.raises(UserError, match="hybrid, seed 0 was not evaluated on 'tiny'"):
        StudyResults(StudyConfig.model_validate(SETTINGS), tmp_path).estimate("hybrid", "tiny/multi/map")


def test_a_depth_that_is_not_computed_is_refused_in_measures_and_claims(benchmark: Benchmark):
    tables = dict.fromkeys(("tiny", "tiny-case"), judged_queries(benchmark))
    exact = StudyConfig.model_validate(SETTINGS)
    claim = {"method": "hybrid", "versus": "x-y", "metric": "drop/tiny/mono/mrr@5"}
    claimed = StudyConfig.model_validate({**SETTINGS, "claims": [claim]})
    for config in (exact.model_copy(update={"measures": ("tiny/mono/map@10",)}), claimed):
        with pytest.raises(ConfigError, match=r"(map@10|mrr@5), whose depth is not computed; write (map|mrr)$"):
            check_measures(config, tables)
    evaluate = {**SETTINGS["run"]["evaluate"], "index": "hnsw", "shards": 1}  # type: ignore[index]
    approximate = StudyConfig.model_validate({**SETTINGS, "run": {"evaluate": evaluate}})
    check_measures(approximate.model_copy(update={"measures": ("tiny/mono/map@1000", "tiny/mono/mrr@10")}), tables)
    with pytest.raises(ConfigError, match="map@10, whose depth is not computed; write map@1000"):
        check_measures(approximate.model_copy(update={"measures": ("tiny/mono/map@10",)}), tables)


def test_metrics_without_a_value_are_refused_before_work_begins(benchmark: Benchmark):
    config = StudyConfig.model_validate(SETTINGS)
    tables = dict.fromkeys(("tiny", "tiny-case"), judged_queries(benchmark))
    check_measures(config, tables)
    judgements = {
        query_id: {passage_id: grade for passage_id, grade in judged.items() if passage_id[:2] == query_id[:2]}
        for query_id, judged in benchmark.judgements.items()
    }
    not_parallel = Benchmark("tiny", benchmark.queries, benchmark.passages, judgements)
    tables |= {"tiny": judged_queries(not_parallel)}
    for metric, message in {
        "tiny/multi/rank_distance": "measures has tiny/multi/rank_distance, which has no value on tiny",
        "tiny/gap/map": "no value on tiny",
        "tiny/cross/map": "no value on tiny",
        "tiny/mono/speed": "'/mono/speed' is not a metric",
        "tiny/mono/map/xx": "no value on tiny",
        "other/mono/map": "no benchmark 'other' is evaluated; there are tiny, tiny-case",
        "drop/other/mono/map": "no benchmark 'other' is evaluated",
    }.items():
        with pytest.raises(ConfigError, match=message):
            check_measures(config.model_copy(update={"measures": (metric,)}), tables)
    check_measures(config.model_copy(update={"measures": ("tiny/mono/map/low-resource",)}), tables)
