"""Runs side by side."""

from hbt_ray.compare.contenders import Contender, Tracked, contenders_in, contenders_of, read_run_metrics
from hbt_ray.compare.figure import comparison_figure
from hbt_ray.compare.tables import comparison_table, differences, significance_table

__all__ = [
    "Contender",
    "Tracked",
    "comparison_figure",
    "comparison_table",
    "contenders_in",
    "contenders_of",
    "differences",
    "read_run_metrics",
    "significance_table",
]
