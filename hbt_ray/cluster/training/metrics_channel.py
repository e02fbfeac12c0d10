"""What a running training says, followed on the driver: a line on the terminal, metrics to the tracker.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2.api.callback import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hbt_ray.cluster.errors import find_user_error
from hbt_ray.errors import UserError

LOOK_EVERY_S = 0.5  # whether the training has ended; reports come without being looked for
LOG_LINE_EVERY_S = 10.0  # where the output is not a terminal


@ray.remote(num_cpus=0)
class MetricsChannel:
    """Keeps what rank 0 and the controller say until the driver takes it; wakes who waits for something here."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.received = 0
        self.noted = 0
        self.evaluated: set[int] = set()
        self.mistake: UserError | None = None
        self.changed = asyncio.Condition()

    async def put(self, report: dict[str, Any]) -> int:
        """Returns how many there were up to this one."""
        async with self.changed:
            self.kept.append(report)
            self.received += 1
            self.changed.notify_all()
            return self.received

    async def take(self, wait_s: float) -> tuple[list[dict[str, Any]], int]:
        """What came since it was last called, and how many there were up to the last; waits where there is nothing."""
        async with self.changed:
            await self._until(lambda: bool(self.kept), wait_s)
            kept, self.kept = self.kept, []
            return kept, self.received

    async def put_noted(self, number: int) -> None:
        """Says that the driver has seen to that many: a kill cannot lose them any more."""
        async with self.changed:
            self.noted = number
            self.changed.notify_all()

    async def wait_noted(self, number: int, wait_s: float) -> None:
        """Waits until the driver has seen to that many, or for so long."""
        async with self.changed:
            await self._until(lambda: self.noted >= number, wait_s)

    async def put_evaluated(self, step: int) -> None:
        """Says that the checkpoint of a step has been measured, or could not be: it is not needed for that any more."""
        self.evaluated.add(step)

    async def get_evaluated(self) -> set[int]:
        return self.evaluated

    async def put_mistake(self, mistake: UserError) -> None:
        """Notes why starting the workers again cannot help."""
        self.mistake = mistake

    async def get_mistake(self) -> UserError | None:
        return self.mistake

    async def _until(self, is_so: Callable[[], bool], wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait_for(is_so), wait_s)


def start_metrics_channel() -> Any:
    """The actor, on the driver's own node, so that it lives as long as its only reader."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return MetricsChannel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


class RestartReporter(UserCallback):
    """Tells the driver why workers are started again. Runs on the controller."""

    def __init__(self, reports: Any) -> None:
        self.reports = reports

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if mistake := find_user_error(error):
                self.reports.put_mistake.remote(mistake)
                return
        rank, error = min(worker_exceptions.items())
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = textwrap.shorten(lines[-1], 160, placeholder=" ...")
        self.reports.put.remote({"notice": f"worker {rank} failed ({reason}); starting again"})


class ProgressMonitor:
    """A context in which a thread takes reports as they come; at its end the last ones have been taken."""

    def __init__(self, reports: Any, steps: int, on_metrics: Callable[[int, dict[str, float]], None]) -> None:
        self.reports = reports
        self.steps = steps  # of the whole training
        self.on_metrics = on_metrics
        self._step = 0
        self._latest: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._terminal = sys.stderr.isatty()
        self._line_at = 0.0
        self._first: tuple[float, int] | None = None  # seconds and step of the first report, for the time left

    def __enter__(self) -> ProgressMonitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take()
        if self._terminal and self._step:
            print(file=sys.stderr)

    def notice(self, text: str) -> None:
        """Says something that happened to the training."""
        self._say(text, notice=True)
        self._first = None

    def _run(self) -> None:
        while not self._ended.is_set():
            self._take(LOOK_EVERY_S)

    def _take(self, wait_s: float = 0.0) -> None:
        try:
            reports, number = ray.get(self.reports.take.remote(wait_s))
        except RayError:  # the actor is gone with the cluster; whoever waits for the training will say so
            self._ended.wait(wait_s)
            return
        for report in reports:
            if "notice" in report:
                self.notice(report["notice"])
                continue
            if "saving" in report:
                continue
            if "benchmarks" in report:
                self.on_metrics(report["step"], report["benchmarks"])
                continue
            for measured in report["steps"]:
                self._step = int(measured["step"])
                self._latest |= measured
                self.on_metrics(self._step, {f"train/{name}": measured[name] for name in measured if name != "step"})
            if report["validation_loss"] is not None:
                self._latest["validation_loss"] = report["validation_loss"]
                validated = {
                    "validation/loss": report["validation_loss"],
                    "validation/best_loss": report["best_validation_loss"],
                }
                self.on_metrics(report["step"], validated)
            if report["steps"]:
                self._say(self._progress(), last=self._step == self.steps)
        if reports:
            self.reports.put_noted.remote(number)

    def _progress(self) -> str:
        now, steps = time.monotonic(), self.steps
        if self._first is None:
            self._first = (now, self._step)
        began_s, began_step = self._first
        left = ""
        if self._step > began_step:
            left_s = (now - began_s) / (self._step - began_step) * (steps - self._step)
            left = f"  {int(left_s // 60)}:{int(left_s % 60):02d} left"
        latest = self._latest
        validation = f"  validation {latest['validation_loss']:.3f}" if "validation_loss" in latest else ""
        speed = next(name for name in latest if name.endswith("_per_s"))
        return (
            f"step {self._step}/{steps}  loss {latest['loss']:.3f}{validation}  "
            f"{latest[speed]:.0f} {speed.removesuffix('_per_s')}/s  "
            f"data wait {100 * latest['data_wait_share']:.1f}%{left}"
        )

    def _say(self, line: str, *, notice: bool = False, last: bool = False) -> None:
        if self._terminal:
            print(f"\r\x1b[K{line}", end="\n" if notice else "", file=sys.stderr, flush=True)
        elif notice or last or time.monotonic() - self._line_at >= LOG_LINE_EVERY_S:
            self._line_at = time.monotonic()
            print(line, file=sys.stderr, flush=True)
