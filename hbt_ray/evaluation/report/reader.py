"""Read the files of a report back, each compared with its checksum.

`report.json` has a checksum of its content, and those of the other files. Reports of earlier versions have none.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.errors import UserError
from hbt_ray.evaluation.question_results import QuestionResults
from hbt_ray.utils.digests import JsonObject, damaged_file, without_checksum
from hbt_ray.utils.display_text import name_some

REPORT, PER_QUERY = "report.json", "per_query.parquet"
QUESTIONS, PASSAGES = "questions.parquet", "passages.parquet"
# Folders of reports: the folder itself, a folder for each benchmark, the folder of a training run.
_FOLDERS = ("", "*/", "evaluation/*/")
_NAMED_RUNS = 8


def find_reports(folder: Path) -> list[Path]:
    """Return the folders of the reports of a folder or a run, sorted.

    Raises:
        UserError: there is none, or one is not complete.
    """
    complete, begun = (_folders_with(folder, name) for name in (REPORT, PER_QUERY))
    if incomplete := sorted(begun - complete):
        raise UserError(f"{str(incomplete[0])!r} holds no complete report (no {REPORT}); evaluate that model again")
    if not complete:
        if runs := sorted({path.relative_to(folder).parts[0] for path in _folders_with(folder, REPORT, "*/")}):
            listed = name_some(runs, _NAMED_RUNS)
            raise UserError(f"{str(folder)!r} holds the runs {listed}; name one, such as {str(folder / runs[0])!r}")
        raise UserError(f"there is no report in {str(folder)!r}; evaluate a model into that folder first")
    return sorted(complete)


def _folders_with(folder: Path, name: str, below: str = "") -> set[Path]:
    """Return the folders of reports, of a run or of the runs in a folder, that have a file."""
    return {path.parent for pattern in _FOLDERS for path in folder.glob(f"{below}{pattern}{name}")}


def read_report(folder: Path) -> JsonObject:
    """Read a `report.json`. Its `files`, the checksums of the other files, are empty in reports of earlier versions.

    Raises:
        UserError: it is no report, or it is not as it was written.
    """
    file = folder / REPORT
    try:
        report = without_checksum(file.read_bytes())
        if not isinstance(report["metrics"], dict) or not isinstance(report.setdefault("files", {}), dict):
            raise TypeError
        report["metrics"] = {str(name): float(value) for name, value in report["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f" ({error})" if "checksum" in str(error) else ""
        raise UserError(f"{str(file)!r} is not a report{reason}; evaluate the model again") from None
    return report


def has_per_query(folder: Path) -> bool:
    """Return whether a report was written with a per-query table, even if that is missing now."""
    return PER_QUERY in read_report(folder)["files"] or (folder / PER_QUERY).exists()


def read_per_query(folder: Path) -> pa.Table:
    """Read a report's per-query table. Raise UserError if it is not as it was written."""
    return _read_table(folder, PER_QUERY)


def read_question_results(folder: Path) -> QuestionResults:
    """Read the results of a report's questions. Raise UserError if there are none, or damaged ones."""
    if QUESTIONS not in read_report(folder)["files"]:
        raise UserError(f"the report in {str(folder)!r} is of an earlier version; evaluate the model again")
    return QuestionResults(_read_table(folder, QUESTIONS), _read_table(folder, PASSAGES))


def _read_table(folder: Path, name: str) -> pa.Table:
    checksums = read_report(folder)["files"]
    file = folder / name
    try:
        if damaged_file(folder, {name: checksums[name]} if name in checksums else {}):
            raise OSError("its checksum does not match")
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{str(file)!r} is damaged ({error}); evaluate that model again") from None


def report_fault(folder: Path) -> str | None:
    """Return which file of a report is missing or damaged, or None if all are as they were written."""
    try:
        return damaged_file(folder, read_report(folder)["files"])
    except UserError:
        return REPORT
