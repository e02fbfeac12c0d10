"""The driver's view of a running training: progress on the terminal, metrics to the tracker."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from hbt_ray.cluster.training.messages import (
    CheckpointMetrics,
    Message,
    Notice,
    Saving,
    Stacks,
    StepMetrics,
    ValidationLoss,
)
from hbt_ray.cluster.training.metrics_channel import Delivery
from hbt_ray.cluster.training.watchdog import StepWatchdog

POLL_S = 0.5  # how soon the thread sees that the training has ended; messages wake it at once
CHANNEL_TIMEOUT_S = 60.0  # for an answer of the metrics channel, which is on this node
LOG_LINE_EVERY_S = 10.0  # if the output is not a terminal

OnMetrics = Callable[[int, dict[str, float]], None]  # takes an optimizer step and its metrics


class ProgressMonitor:
    """A context in which a thread handles messages as they arrive; leaving it handles the last ones.

    Args:
        steps: of the whole training.
        stacks_file: receives the stacks of ranks whose step takes too long.
    """

    def __init__(
        self, channel: Any, steps: int, on_metrics: OnMetrics, watchdog: StepWatchdog, stacks_file: Path
    ) -> None:
        self.channel = channel
        self.steps = steps
        self.on_metrics = on_metrics
        self.watchdog = watchdog
        self.stacks_file = stacks_file
        self._step = 0
        self._latest: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._terminal = sys.stderr.isatty()
        self._line_at_s = 0.0
        self._first: tuple[float, int] | None = None  # time and step of the first report, for the time left

    def __enter__(self) -> ProgressMonitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._poll()
        if self._terminal and self._step:
            print(file=sys.stderr)

    def notice(self, text: str) -> None:
        """Print a line about an event of the training."""
        self._print(text, notice=True)
        self._first = None

    def _run(self) -> None:
        while not self._ended.is_set():
            self._poll(POLL_S)

    def _poll(self, wait_s: float = 0.0) -> None:
        try:
            delivery: Delivery = ray.get(self.channel.take.remote(wait_s), timeout=wait_s + CHANNEL_TIMEOUT_S)
        except RayError:  # the cluster is gone; the thread that waits for the training will raise
            self._ended.wait(wait_s)
            return
        self._handle(delivery.messages)
        if delivery.messages:
            self.channel.acknowledge.remote(delivery.number)
        if line := self.watchdog.check(delivery.ranks):
            self.notice(line)

    def _handle(self, messages: Sequence[Message]) -> None:
        stepped = False
        for message in messages:
            match message:
                case Notice(text):
                    self.notice(text)
                case CheckpointMetrics(step, metrics):
                    self.on_metrics(step, metrics)
                case StepMetrics(steps):
                    for metrics in steps:
                        self._step = int(metrics["step"])
                        self._latest |= metrics
                        logged = {f"train/{name}": value for name, value in metrics.items() if name != "step"}
                        self.on_metrics(self._step, logged)
                    stepped = stepped or bool(steps)
                case ValidationLoss(step, loss, best_loss):
                    self._latest["validation_loss"] = loss
                    best = {} if best_loss is None else {"validation/best_loss": best_loss}
                    self.on_metrics(step, {"validation/loss": loss} | best)
                case Stacks(rank, step, text):
                    with self.stacks_file.open("a", encoding="utf-8") as file:
                        file.write(f"# rank {rank}, step {step}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
                case Saving():
                    pass  # acknowledging it is all that it needs
        if stepped:
            self._print(self._progress_line(), last=self._step == self.steps)

    def _progress_line(self) -> str:
        now_s, steps = time.monotonic(), self.steps
        if self._first is None:
            self._first = (now_s, self._step)
        first_s, first_step = self._first
        left = ""
        if self._step > first_step:
            left_s = (now_s - first_s) / (self._step - first_step) * (steps - self._step)
            left = f"  {int(left_s // 60)}:{int(left_s % 60):02d} left"
        latest = self._latest
        validation = f"  validation {latest['validation_loss']:.3f}" if "validation_loss" in latest else ""
        speed = next(name for name in latest if name.endswith("_per_s"))
        return (
            f"step {self._step}/{steps}  loss {latest['loss']:.3f}{validation}  "
            f"{latest[speed]:.0f} {speed.removesuffix('_per_s')}/s  "
            f"data wait {100 * latest['data_wait_share']:.1f}%{left}"
        )

    def _print(self, line: str, *, notice: bool = False, last: bool = False) -> None:
        if self._terminal:
            print(f"\r\x1b[K{line}", end="\n" if notice else "", file=sys.stderr, flush=True)
        elif notice or last or time.monotonic() - self._line_at_s >= LOG_LINE_EVERY_S:
            self._line_at_s = time.monotonic()
            print(line, file=sys.stderr, flush=True)
