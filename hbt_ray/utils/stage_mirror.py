"""Stages of other processes, shown as stages of this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hbt_ray.utils.progress import Stage, active_stages, begin_stage, end_stage, repeated

REPORT_EVERY_S = 1.0


class StageState(NamedTuple):
    """A stage of another process, as it is sent."""

    name: str
    total: int | None
    unit: str
    done: int
    detail: str
    left_s: float | None = None  # its estimate, which knows what the mirror has not seen


@dataclass(slots=True, eq=False)
class _MirroredStage(Stage):
    left_s: float | None = None

    def seconds_left(self) -> float | None:
        return self.left_s


@contextlib.contextmanager
def report_stages(send: Callable[[list[StageState]], object]) -> Iterator[None]:
    """Send the active stages of this process every second while the block runs, and none after it."""

    def report() -> None:
        send(
            [
                StageState(one.name, one.total, one.unit, one.done, one.detail, one.seconds_left())
                for one in active_stages()
            ]
        )

    try:
        with repeated(report, REPORT_EVERY_S):
            yield
    finally:
        send([])


class StageMirror:
    """Keeps stages of this process like those of others."""

    def __init__(self) -> None:
        self._stages: dict[tuple[str, str], _MirroredStage] = {}  # by label and name

    def set(self, by_label: Mapping[str, Sequence[StageState]]) -> None:
        """Begin, advance and end stages so that they are those of the other processes, given by label."""
        states = {(label, state.name): state for label, of_process in by_label.items() for state in of_process}
        for key in self._stages.keys() - states.keys():
            end_stage(self._stages.pop(key), leaves_line=False)
        for key, state in states.items():
            if key not in self._stages:
                self._stages[key] = _MirroredStage(": ".join(key), state.total, state.unit, state.done)
                begin_stage(self._stages[key])
            self._stages[key].move_to(state.done, state.detail)
            self._stages[key].left_s = state.left_s
