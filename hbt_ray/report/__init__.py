"""Files, tables and figures from an `EvalReport`."""

from hbt_ray.report.figures import bias_figure, matrix_figure, projection_figure
from hbt_ray.report.files import write_report
from hbt_ray.report.tables import HEADLINES, formatted, print_report

__all__ = [
    "HEADLINES",
    "bias_figure",
    "formatted",
    "matrix_figure",
    "print_report",
    "projection_figure",
    "write_report",
]
