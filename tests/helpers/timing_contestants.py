"""Contestants of `compare_alternating`; a separate module, because a contestant's process imports it."""

from __future__ import annotations

import time
from collections.abc import Callable


def make_sleeping_round(seconds: float, work: float) -> Callable[[], float]:
    """Return a function that sleeps for `seconds` and returns `work`."""

    def run_round() -> float:
        time.sleep(seconds)
        return work

    return run_round


def raise_value_error() -> Callable[[], float]:
    """Fail to prepare."""
    raise ValueError("no luck")


def raise_missing_library() -> Callable[[], float]:
    """Fail to prepare as if accelerate were not installed."""
    raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")


def make_memory_round(mib: int) -> Callable[[], float]:
    """Return a function that holds `mib` MiB."""
    held = b"x" * (mib * 2**20)
    return lambda: float(len(held))
