"""What a running training says, followed on the driver: a line on the terminal, metrics to the tracker."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from hbt_ray.config import RunConfig

POLL_S = 0.5
LOG_LINE_EVERY_S = 10.0  # where the output is not a terminal


@ray.remote(num_cpus=0)
class Reports:
    """Keeps what workers reported until the driver takes it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def put(self, report: dict[str, Any]) -> None:
        self.kept.append(report)

    def take(self) -> list[dict[str, Any]]:
        kept, self.kept = self.kept, []
        return kept


class Follower:
    """A context in which a thread takes reports as they come; at its end the last ones have been taken."""

    def __init__(
        self, reports: Any, config: RunConfig, on_metrics: Callable[[int, dict[str, float]], None]
    ) -> None:
        self.reports = reports
        self.config = config
        self.on_metrics = on_metrics
        self.last_step = 0
        self.last_metrics: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._terminal = sys.stderr.isatty()
        self._line_at = 0.0
        self._started_at: tuple[float, int] | None = None  # seconds and step of the first report, for the time left

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take()
        if self._terminal and self.last_step:
            print(file=sys.stderr)

    def _run(self) -> None:
        while not self._ended.wait(POLL_S):
            self._take()

    def _take(self) -> None:
        for report in ray.get(self.reports.take.remote()):
            if "failure" in report:
                self._say(f"\n{report['failure']}; going on from the newest checkpoint", force=True)
                self._started_at = None
                continue
            for measured in report.pop("history"):
                step = int(measured.pop("step"))
                self.last_step, self.last_metrics = step, dict(measured)
                self.on_metrics(step, {f"train/{name}": value for name, value in measured.items()})
            if "validation_loss" in report:
                self.last_metrics["validation_loss"] = report["validation_loss"]
                validated = {
                    "validation/loss": report["validation_loss"],
                    "validation/best_loss": report["best_validation_loss"],
                }
                self.on_metrics(report["step"], validated)
            if self.last_step:
                self._say(self._progress(), force=self.last_step == self.config.train.steps)

    def _progress(self) -> str:
        now, steps = time.monotonic(), self.config.train.steps
        if self._started_at is None:
            self._started_at = (now, self.last_step)
        began_s, began_step = self._started_at
        left = ""
        if self.last_step > began_step:
            left_s = (now - began_s) / (self.last_step - began_step) * (steps - self.last_step)
            left = f"  {int(left_s // 60)}:{int(left_s % 60):02d} left"
        measured = self.last_metrics
        validation = f"  validation {measured['validation_loss']:.3f}" if "validation_loss" in measured else ""
        return (
            f"step {self.last_step}/{steps}  loss {measured['loss']:.3f}{validation}  "
            f"{measured['pairs_per_s']:.0f} pairs/s  data wait {100 * measured['data_wait_share']:.1f}%{left}"
        )

    def _say(self, line: str, force: bool) -> None:
        if self._terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif force or time.monotonic() - self._line_at >= LOG_LINE_EVERY_S:
            self._line_at = time.monotonic()
            print(line.strip(), file=sys.stderr, flush=True)
