"""Files, tables and figures of an `EvalReport`."""

from hbt_ray.evaluation.report.figures import bias_figure, matrix_figure, projection_figure
from hbt_ray.evaluation.report.markdown import markdown_table
from hbt_ray.evaluation.report.reader import (
    PER_QUERY,
    REPORT,
    has_per_query,
    read_per_query,
    read_report,
    report_fault,
)
from hbt_ray.evaluation.report.tables import format_value, headlines, print_report
from hbt_ray.evaluation.report.writer import make_folder, report_errors, write_report

__all__ = [
    "PER_QUERY",
    "REPORT",
    "bias_figure",
    "format_value",
    "has_per_query",
    "headlines",
    "make_folder",
    "markdown_table",
    "matrix_figure",
    "print_report",
    "projection_figure",
    "read_per_query",
    "read_report",
    "report_errors",
    "report_fault",
    "write_report",
]
