"""Running independent jobs as Ray tasks, a limited number at a time, and showing their progress on the driver."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest
from hbt_ray.utils.progress import Stage, active_stages, begin_stage, end_stage, stage

REPORT_EVERY_S = 1.0
_BOARD_TIMEOUT_S = 10.0  # for an answer of the progress board

KeyT = TypeVar("KeyT")


def run_tasks(
    jobs: Sequence[tuple[KeyT, Callable[..., None], tuple[object, ...]]],
    request: ResourceRequest,
    description: str,
    label: Callable[[KeyT], str] = str,
) -> Iterator[tuple[KeyT, float]]:
    """Run jobs as tasks, at most `request.max_concurrent` at a time. Their stages become stages of this process.

    Args:
        jobs: (key, function, arguments) each.
        request: resources of each task, and how many run at a time.
        description: of the work, such as "pretraining".
        label: names a job, given its key, in its stages.

    Yields:
        The key of each job that has ended, in the order of their ends, and the seconds it took.

    Raises:
        HbtError: a job raised it; ClusterError if Ray failed. The other jobs are cancelled.
    """
    options = {"num_cpus": request.threads, "num_gpus": request.resources.get("GPU", 0), "max_retries": 2}
    waiting = list(jobs)
    running: dict[ray.ObjectRef, tuple[KeyT, float]] = {}
    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    mirror = _StageMirror(board)
    try:
        with unwrap_ray_errors(description), stage(description, len(jobs)) as overall:
            while waiting or running:
                while waiting and len(running) < request.max_concurrent:
                    key, function, arguments = waiting.pop(0)
                    task = ray.remote(**options)(_run_and_report)
                    running[task.remote(function, arguments, label(key), board)] = (key, time.monotonic())
                overall.detail = ", ".join(label(key) for key, _ in running.values())
                if waiting:
                    overall.detail += f"; next {label(waiting[0][0])}"
                ended, _ = ray.wait(list(running), num_returns=1, timeout=REPORT_EVERY_S)
                mirror.update()
                for one in ended:
                    key, began_s = running.pop(one)
                    ray.get(one)
                    overall.advance()
                    yield key, time.monotonic() - began_s
    finally:
        mirror.end()
        for unfinished in running:
            ray.cancel(unfinished, force=True)
        ray.kill(board)


class StageState(NamedTuple):
    """A stage of a task, as it is sent to the driver."""

    name: str
    total: int | None
    unit: str
    done: int
    detail: str


class ProgressBoard:
    """An actor that holds the active stages of each task."""

    def __init__(self) -> None:
        self.stages: dict[str, list[StageState]] = {}

    def write(self, label: str, stages: list[StageState]) -> None:
        """Replace a task's stages."""
        self.stages[label] = stages

    def read(self) -> dict[str, list[StageState]]:
        """Return the stages of all tasks, by label."""
        return self.stages


def _run_and_report(
    function: Callable[..., None], arguments: tuple[object, ...], label: str, board: ActorHandle
) -> None:
    """Run a job in a task; a thread writes the active stages to the board every second."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(REPORT_EVERY_S):
            stages = [StageState(one.name, one.total, one.unit, one.done, one.detail) for one in active_stages()]
            board.write.remote(label, stages)

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        function(*arguments)
    finally:
        ended.set()
        thread.join()
        board.write.remote(label, [])


class _StageMirror:
    """Keeps stages of this process like those of the tasks."""

    def __init__(self, board: ActorHandle) -> None:
        self._board = board
        self._reply = board.read.remote()
        self._stages: dict[tuple[str, str], Stage] = {}  # by label and name

    def update(self) -> None:
        """Begin, advance and end stages as the board has them; never wait for it."""
        with contextlib.suppress(RayError):  # progress is not worth a failure
            if ray.wait([self._reply], timeout=0)[0]:
                by_label: dict[str, list[StageState]] = ray.get(self._reply)
                self._reply = self._board.read.remote()
                self._set({(label, state.name): state for label, states in by_label.items() for state in states})

    def end(self) -> None:
        """End all stages."""
        for one in self._stages.values():
            end_stage(one, leaves_line=False)

    def _set(self, states: dict[tuple[str, str], StageState]) -> None:
        for key in self._stages.keys() - states.keys():
            end_stage(self._stages.pop(key), leaves_line=False)
        for key, state in states.items():
            if key not in self._stages:
                self._stages[key] = Stage(": ".join(key), state.total, state.unit, state.done)
                begin_stage(self._stages[key])
            self._stages[key].move_to(state.done, state.detail)
