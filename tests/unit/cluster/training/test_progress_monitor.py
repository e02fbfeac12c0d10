import queue
import time
from pathlib import Path
from types import SimpleNamespace

import ray

from hbt_ray.cluster.training.messages import (
    CheckpointMetrics,
    Notice,
    Saving,
    Stacks,
    StepMetricsMessage,
    ValidationLoss,
)
from hbt_ray.cluster.training.metrics_channel import Delivery
from hbt_ray.cluster.training.progress_monitor import ProgressMonitor
from hbt_ray.cluster.training.watchdog import StepWatchdog
from hbt_ray.errors import StorageError


def step_metrics(step: int, loss: float) -> dict[str, float]:
    return {"step": step, "loss": loss, "pairs_per_s": 100.0, "data_wait_share": 0.01}


def monitor_of(tmp_path: Path, *messages, on_metrics=lambda step, metrics: None) -> ProgressMonitor:
    """Return a monitor of 10 steps that has handled some messages."""
    watchdog = StepWatchdog(600, str(tmp_path / "stacks.txt"))
    monitor = ProgressMonitor(None, 10, on_metrics, watchdog, tmp_path / "stacks.txt")
    monitor._handle(messages)
    return monitor


def handled(tmp_path: Path, *messages) -> list[tuple[int, dict[str, float]]]:
    """Return the arguments with which a monitor calls its metrics callback."""
    logged: list[tuple[int, dict[str, float]]] = []
    monitor_of(tmp_path, *messages, on_metrics=lambda step, metrics: logged.append((step, metrics)))
    return logged


def test_monitor_logs_each_step_under_train(tmp_path):
    logged = handled(tmp_path, StepMetricsMessage([step_metrics(1, 3.0), step_metrics(2, 2.0)]), Saving(2))
    assert [step for step, _ in logged] == [1, 2]
    assert logged[1][1] == {"train/loss": 2.0, "train/pairs_per_s": 100.0, "train/data_wait_share": 0.01}


def test_monitor_logs_a_validation_with_the_best_before_it(tmp_path):
    assert handled(tmp_path, ValidationLoss(4, 2.5, 2.0)) == [
        (4, {"validation/loss": 2.5, "validation/best_loss": 2.0})
    ]


def test_monitor_passes_an_evaluation_on_as_it_is(tmp_path):
    assert handled(tmp_path, CheckpointMetrics(5, {"squad/mono/map": 0.5})) == [(5, {"squad/mono/map": 0.5})]


def test_monitor_shows_notices_and_the_newest_step(tmp_path, capsys):
    stage = monitor_of(
        tmp_path, Notice("worker 1 failed"), StepMetricsMessage([step_metrics(10, 2.0)]), ValidationLoss(10, 2.5, 2.5)
    )._stage
    assert capsys.readouterr().err == "worker 1 failed\n"
    assert (stage.done, stage.detail) == (10, "loss 2.000  validation 2.500  100 pairs/s  data wait 1.0%")


def test_monitor_appends_stacks_to_one_file(tmp_path):
    handled(tmp_path, Stacks(0, 7, "Thread 1"), Stacks(1, 7, "Thread 2"))
    stacks = (tmp_path / "stacks.txt").read_text()
    assert "# rank 0, step 7, " in stacks
    assert stacks.index("Thread 1") < stacks.index("# rank 1, step 7, ") < stacks.index("Thread 2")


def test_monitor_goes_on_after_metrics_that_cannot_be_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference)
    deliveries = queue.SimpleQueue[Delivery]()

    acknowledged: list[int] = []

    class Channel:
        def take(self, wait_s):
            return deliveries.get() if wait_s else Delivery([], 4, [])

        def acknowledge(self, number):
            acknowledged.append(number)

    channel = Channel()
    for name in ("take", "acknowledge"):
        monkeypatch.setattr(Channel, name, SimpleNamespace(remote=getattr(channel, name)))
    logged: list[int] = []

    def on_metrics(step, metrics):
        if step == 1:
            raise StorageError("the storage cannot be listed")
        logged.append(step)

    deliveries.put(Delivery([StepMetricsMessage([step_metrics(1, 3.0), step_metrics(2, 3.0)]), Saving(2)], 2, []))
    deliveries.put(Delivery([StepMetricsMessage([step_metrics(3, 2.0)]), Saving(3)], 4, []))
    watchdog = StepWatchdog(600, str(tmp_path / "stacks.txt"))
    with ProgressMonitor(channel, 10, on_metrics, watchdog, tmp_path / "stacks.txt") as monitor:
        while len(acknowledged) < 2 and monitor._thread.is_alive():
            time.sleep(0.01)
        assert monitor._thread.is_alive()
        monitor._ended.set()
        deliveries.put(Delivery([], 4, []))
    assert (logged, acknowledged) == ([2, 3], [2, 4])
    assert "the metrics of step 1 cannot be logged" in caplog.text
