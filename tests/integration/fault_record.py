"""What faults cost: a line for each test in the file that HBT_FAULT_RECORD names, and the README's table of them.

`python -m tests.integration.fault_record FILE` prints the table of all lines; lines of the same fault make one row.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

RECORD = "HBT_FAULT_RECORD"  # environment variable
POLL_S = 0.01
RECOVERY_S = 600  # in which a run must recover
HEADER = "| fault | injected | during a write | recovered | seconds to recover | steps lost | against a reference run |"


@dataclass
class FaultRecord:
    """The faults of one kind that a test injected, all of which the run survived."""

    fault: str  # as the README calls it
    compared: str  # with a reference run
    injected: int
    recovery_s: list[float] = field(default_factory=list)  # from each fault to the next step; not all are measured
    during_write: int = 0
    steps_lost: int | None = None  # computed again

    def write(self) -> None:
        """Print the record as a row, and append it to the file of HBT_FAULT_RECORD if there is one."""
        print(f"\n{row_of([self])}")
        if file := os.environ.get(RECORD):
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(self)) + "\n")


def recovery_seconds(
    step: Callable[[], int], struck_s: float, dying: Sequence[psutil.Process], has_ended: Callable[[], bool]
) -> list[float]:
    """Wait for the first step that is completed after a fault; return the seconds, or nothing if the run ends before.

    Args:
        step: returns the newest step with a complete checkpoint.
        struck_s: when the fault was injected, of `time.monotonic`.
        dying: the processes that it ends; until then they may complete steps.
        has_ended: returns whether the run has ended.
    """
    psutil.wait_procs(dying, timeout=RECOVERY_S)
    before = step()
    while time.monotonic() < struck_s + RECOVERY_S and not has_ended():
        if step() > before:
            return [time.monotonic() - struck_s]
        time.sleep(POLL_S)
    return []


def row_of(records: list[FaultRecord]) -> str:
    """Return the row of records of one fault."""
    seconds = [second for record in records for second in record.recovery_s]
    injected = sum(record.injected for record in records)
    written = sum(record.during_write for record in records)
    lost = [record.steps_lost for record in records if record.steps_lost is not None]
    cells = [records[0].fault, injected, written or "", injected, "-", sum(lost) if lost else "", records[0].compared]
    if seconds:
        cells[4] = f"{np.median(seconds):.1f}; {np.percentile(seconds, 95):.1f}"
        if len(seconds) != injected:
            cells[4] += f" ({len(seconds)} measured)"
    return "| " + " | ".join(map(str, cells)) + " |"


def table_of(lines: Iterable[str]) -> str:
    """Return the table of recorded lines, a row for each fault: median and 95th percentile of the seconds."""
    by_fault: dict[str, list[FaultRecord]] = {}
    for line in lines:
        record = FaultRecord(**json.loads(line))
        by_fault.setdefault(record.fault, []).append(record)
    return "\n".join([HEADER, "|---" * HEADER.count(" |") + "|", *map(row_of, by_fault.values())])


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8") as _lines:
        print(table_of(_lines))
