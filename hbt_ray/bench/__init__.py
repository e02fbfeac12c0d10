"""Benchmark of speed and memory against baselines, in alternating rounds; the parts that need no Ray."""

from hbt_ray.bench.result import BenchResult, describe_result, write_results
from hbt_ray.bench.timing import Contestant, compare_alternating

__all__ = ["BenchResult", "Contestant", "compare_alternating", "describe_result", "write_results"]
