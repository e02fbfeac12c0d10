"""The table of recorded faults has a row for each fault, with median and 95th percentile of the seconds."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict

from tests.integration.fault_record import RECORD, FaultRecord, recovery_seconds, table_of

EQUAL = "weights equal"


def test_records_of_one_fault_make_one_row():
    first = FaultRecord("worker killed", EQUAL, injected=2, recovery_s=[1, 3], during_write=1, steps_lost=1)
    second = FaultRecord("worker killed", EQUAL, injected=3, recovery_s=[2, 4, 5], steps_lost=0)
    other = FaultRecord("report cut", EQUAL, injected=5, recovery_s=[7])
    lines = [json.dumps(asdict(record)) for record in (first, second, other)]
    assert table_of(lines).splitlines()[2:] == [
        "| worker killed | 5 | 1 | 5 | 3.0; 4.8 | 1 | weights equal |",  # 4 + 0.8 of the way to 5
        "| report cut | 5 |  | 5 | 7.0; 7.0 (1 measured) |  | weights equal |",
    ]


def test_written_records_are_appended(tmp_path, monkeypatch):
    monkeypatch.setenv(RECORD, str(tmp_path / "record.jsonl"))
    for _ in range(2):
        FaultRecord("worker killed", EQUAL, 1).write()
    assert table_of((tmp_path / "record.jsonl").read_text().splitlines()).endswith(
        "| worker killed | 2 |  | 2 | - |  | weights equal |"
    )


def test_recovery_ends_with_a_step_that_is_newer_than_the_fault():
    steps = itertools.chain([4, 4, 4], itertools.repeat(5))
    assert len(recovery_seconds(lambda: next(steps), time.monotonic(), [], lambda: False)) == 1
    assert recovery_seconds(lambda: 4, time.monotonic(), [], lambda: True) == []
