"""The driver's view of a running training: progress on the terminal, metrics to the tracker."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from hbt_ray.cluster.training.messages import (
    CheckpointMetrics,
    Message,
    Notice,
    Saving,
    Stacks,
    StartUp,
    StepMetricsMessage,
    ValidationLoss,
)
from hbt_ray.cluster.training.metrics_channel import Delivery
from hbt_ray.cluster.training.watchdog import StepWatchdog
from hbt_ray.training.task import OnMetrics
from hbt_ray.utils.progress import Stage, begin_stage, end_stage, print_line
from hbt_ray.utils.start_up import describe_start_up, take_ends

POLL_S = 0.5  # how soon the thread sees that the training has ended; messages wake it at once
CHANNEL_TIMEOUT_S = 60.0  # for an answer of the metrics channel, which is on this node

logger = logging.getLogger(__name__)


class ProgressMonitor:
    """A context in which a thread handles messages as they arrive; leaving it handles the last ones.

    Args:
        steps: of the whole training.
        stacks_file: receives the stacks of ranks whose step takes too long.
    """

    def __init__(
        self, channel: ActorHandle, steps: int, on_metrics: OnMetrics, watchdog: StepWatchdog, stacks_file: Path
    ) -> None:
        self.channel = channel
        self.on_metrics = on_metrics
        self.watchdog = watchdog
        self.stacks_file = stacks_file
        self._step = 0
        self._latest: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # The start-up does not count for the time left, nor do the steps of an earlier call.
        self._stage = Stage("training", steps, "steps", starts_slowly=True)

    def __enter__(self) -> ProgressMonitor:
        begin_stage(self._stage)
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._poll()
        end_stage(self._stage, leaves_line=error is None)

    def notice(self, text: str) -> None:
        """Print a line about an event of the training. What comes before it no longer counts for the time left."""
        print_line(text)
        self._stage.restart_rate()

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
                    self._log(step, metrics)
                case StepMetricsMessage(steps):
                    for metrics in steps:
                        self._step = int(metrics["step"])
                        self._latest |= metrics
                        logged = {f"train/{name}": value for name, value in metrics.items() if name != "step"}
                        self._log(self._step, logged)
                    stepped = stepped or bool(steps)
                case ValidationLoss(step, loss, best_loss):
                    self._latest["validation_loss"] = loss
                    best = {} if best_loss is None else {"validation/best_loss": best_loss}
                    self._log(step, {"validation/loss": loss} | best)
                case Stacks(rank, step, text):
                    stacks = f"# rank {rank}, step {step}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n"
                    with (
                        _failure_logged(f"stacks of rank {rank}"),
                        self.stacks_file.open("a", encoding="utf-8") as file,
                    ):
                        file.write(stacks)
                case StartUp(ends):
                    if before := take_ends():  # not of a worker group that was restarted
                        logger.info("%s", describe_start_up([*before, *ends]))
                case Saving():
                    pass  # acknowledging it is all that it needs
        if stepped:
            self._stage.move_to(self._step, self._metrics_text())

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        with _failure_logged(f"metrics of step {step}"):
            self.on_metrics(step, metrics)

    def _metrics_text(self) -> str:
        latest = self._latest
        validation = f"  validation {latest['validation_loss']:.3f}" if "validation_loss" in latest else ""
        speed = next(name for name in latest if name.endswith("_per_s"))
        return (
            f"loss {latest['loss']:.3f}{validation}  {latest[speed]:.0f} {speed.removesuffix('_per_s')}/s  "
            f"data wait {100 * latest['data_wait_share']:.1f}%"
        )


@contextlib.contextmanager
def _failure_logged(of: str) -> Iterator[None]:
    """Log an exception of the block: the thread must go on, for savers wait for it and it watches the steps."""
    try:
        yield
    except Exception:
        logger.warning("the %s cannot be logged", of, exc_info=True)
