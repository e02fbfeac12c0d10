"""Files, tables and figures of an `EvalReport`."""

from hbt_ray.evaluation.report.figures import bias_figure, matrix_figure, projection_figure
from hbt_ray.evaluation.report.markdown import markdown_table
from hbt_ray.evaluation.report.questions import QuestionCollection
from hbt_ray.evaluation.report.reader import (
    find_reports,
    has_per_query,
    read_per_query,
    read_question_results,
    read_report,
    report_fault,
)
from hbt_ray.evaluation.report.tables import format_value, headlines, print_report
from hbt_ray.evaluation.report.writer import make_folder, report_errors, write_report

__all__ = [
    "QuestionCollection",
    "bias_figure",
    "find_reports",
    "format_value",
    "has_per_query",
    "headlines",
    "make_folder",
    "markdown_table",
    "matrix_figure",
    "print_report",
    "projection_figure",
    "read_per_query",
    "read_question_results",
    "read_report",
    "report_errors",
    "report_fault",
    "write_report",
]
