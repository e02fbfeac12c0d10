"""Read the files of a report back, each compared with its checksum.

`report.json` has a checksum of its content, and those of the other files. Reports of earlier versions have none.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.errors import UserError
from hbt_ray.utils.digests import JsonObject, damaged_file, without_checksum

REPORT, PER_QUERY = "report.json", "per_query.parquet"


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
    checksums = read_report(folder)["files"]
    file = folder / PER_QUERY
    try:
        if damaged_file(folder, {PER_QUERY: checksums[PER_QUERY]} if PER_QUERY in checksums else {}):
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
