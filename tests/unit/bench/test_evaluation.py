"""The retrieval set on which metrics are timed."""

from __future__ import annotations

from hbt_ray.bench.evaluation import make_parallel_benchmark


def test_parallel_benchmark_has_the_requested_size():
    benchmark = make_parallel_benchmark(11, 1_190, 13_014)
    assert (len(benchmark.queries), len(benchmark.passages)) == (11 * 1_190, 13_014)
    ids = {passage.passage_id for passage in benchmark.passages}
    assert all(len(judged) == 11 and judged.keys() <= ids for judged in benchmark.judgements.values())
    assert sorted(ids) == [passage.passage_id for passage in benchmark.passages]
