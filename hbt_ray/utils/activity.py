"""What this process, one rank of a training, is doing now: the optimizer step and its phase.

The training loop and the collectives record it, at the cost of an assignment; a heartbeat thread reads it. A process
is one rank, so the record is global to it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """What a rank can be in."""

    START = "start-up"
    RESTORE = "restore"
    DATA = "wait for data"
    COMPUTE = "forward/backward"
    ALL_REDUCE = "all-reduce"
    SAVE = "save"
    REPORT = "report"


@dataclass(slots=True)
class Activity:
    """The optimizer step that is being computed, counted from 1; 0 before the first."""

    step: int = 0
    phase: Phase = Phase.START
    step_began_s: float = field(default_factory=time.monotonic)


current = Activity()


def begin_step(step: int) -> None:
    """Record that optimizer step `step`, counted from 1, begins; 0 is the start-up. Does nothing if it has begun."""
    if step != current.step or step == 0:
        current.step = step
        current.step_began_s = time.monotonic()


def enter_phase(phase: Phase) -> None:
    """Record the phase until the next call."""
    current.phase = phase


@contextlib.contextmanager
def in_phase(phase: Phase) -> Iterator[None]:
    """Record the phase while the block runs, and the earlier one again after it."""
    before, current.phase = current.phase, phase
    try:
        yield
    finally:
        current.phase = before
