"""Comparison of runs: tables, significance and a figure."""

from hbt_ray.evaluation.compare.figures import comparison_figure
from hbt_ray.evaluation.compare.runs import RunGroup, TrackedRun, read_run_metrics, run_groups_in, run_groups_of
from hbt_ray.evaluation.compare.tables import comparison_table, differences, significance_table

__all__ = [
    "RunGroup",
    "TrackedRun",
    "comparison_figure",
    "comparison_table",
    "differences",
    "read_run_metrics",
    "run_groups_in",
    "run_groups_of",
    "significance_table",
]
