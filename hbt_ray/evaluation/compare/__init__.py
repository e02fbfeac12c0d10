"""Runs side by side."""

from hbt_ray.evaluation.compare.figures import comparison_figure
from hbt_ray.evaluation.compare.runs import RunGroup, Tracked, read_run_metrics, run_groups_in, run_groups_of
from hbt_ray.evaluation.compare.tables import comparison_table, differences, significance_table

__all__ = [
    "RunGroup",
    "Tracked",
    "comparison_figure",
    "comparison_table",
    "differences",
    "read_run_metrics",
    "run_groups_in",
    "run_groups_of",
    "significance_table",
]
