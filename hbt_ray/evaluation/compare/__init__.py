"""Comparison of runs: tables, significance, a figure and a page."""

from hbt_ray.evaluation.compare.figures import comparison_figure
from hbt_ray.evaluation.compare.page import write_comparison_page
from hbt_ray.evaluation.compare.runs import RunGroup, TrackedRun, read_run_metrics, run_groups_in, run_groups_of
from hbt_ray.evaluation.compare.tables import TestedDifference, comparison_table, differences, significance_tables

__all__ = [
    "RunGroup",
    "TestedDifference",
    "TrackedRun",
    "comparison_figure",
    "comparison_table",
    "differences",
    "read_run_metrics",
    "run_groups_in",
    "run_groups_of",
    "significance_tables",
    "write_comparison_page",
]
