"""Sides of a comparison in turns; in a file of their own, since a side's process imports nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable


def sleeping(seconds: float, work: float) -> Callable[[], float]:
    def round_() -> float:
        time.sleep(seconds)
        return work

    return round_


def failing() -> Callable[[], float]:
    raise ValueError("no luck")


def lacking() -> Callable[[], float]:
    raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")


def holding(mib: int) -> Callable[[], float]:
    held = b"x" * (mib * 2**20)
    return lambda: float(len(held))
