"""Files, tables and figures of an `EvalReport`."""

from hbt_ray.evaluation.report.figures import bias_figure, matrix_figure, projection_figure
from hbt_ray.evaluation.report.markdown import markdown_table
from hbt_ray.evaluation.report.reader import read_per_query, read_report, report_fault
from hbt_ray.evaluation.report.tables import format_value, headlines, print_report
from hbt_ray.evaluation.report.writer import make_folder, report_errors, write_report

__all__ = [
    "bias_figure",
    "format_value",
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
