"""Seconds of each stage between a command and the first step of its training.

Each process records when its stages ended, by the clock, so that stages of several processes can be put in one line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.utils.process import seconds_since_start

START_UP = "start-up:"  # how the line of `describe_start_up` begins


@dataclass(frozen=True, slots=True)
class StageEnd:
    """When a stage ended."""

    stage: str
    time_s: float  # since 1970


_ends: list[StageEnd] = []  # of this process


def end_of(stage: str) -> None:
    """Record that a stage has ended, unless it did before."""
    if all(end.stage != stage for end in _ends):
        _ends.append(StageEnd(stage, time.time()))


def take_ends() -> list[StageEnd]:
    """Return what was recorded since the last call."""
    taken = list(_ends)
    _ends.clear()
    return taken


def stage_seconds(began_s: float, ends: Sequence[StageEnd]) -> dict[str, float]:
    """Return the seconds of each stage, which begins where the stage before it ended.

    >>> stage_seconds(100.0, [StageEnd("imports", 102.5), StageEnd("Ray", 106.0)])
    {'imports': 2.5, 'Ray': 3.5}
    """
    began = [began_s, *(end.time_s for end in ends)]
    return {end.stage: end.time_s - before for before, end in zip(began, ends, strict=False)}


def describe_start_up(ends: Sequence[StageEnd]) -> str:
    """Return one line with the seconds since this process began, and those of each stage."""
    began_s = time.time() - seconds_since_start()
    seconds = stage_seconds(began_s, ends)
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    return f"{START_UP} {sum(seconds.values()):.1f} s: {stages}"
