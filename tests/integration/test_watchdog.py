"""A worker that stops without failing is found, and costs nothing once it continues."""

from __future__ import annotations

import os
import re
import threading
import time

import pytest

from hbt_ray.cluster.pipelines.train import run
from hbt_ray.cluster.training.progress_monitor import ProgressMonitor
from tests.integration.conftest import tiny_config
from tests.integration.fault_injection import newest_step, processes_of_cluster

STEP_TIMEOUT_S = 5.0
MARGIN_S = 4.0  # for the ranks' stacks, a heartbeat and the driver's poll
REPORT = re.compile(
    r"step \d+ has taken \d+ s: rank (?P<stopped>[01]) is in [a-z /-]+ \(no heartbeat for \d+ s\), "
    r"rank (?P<waiting>[01]) is in (all-reduce|report); stacks in (?P<stacks>\S+)"
)


@pytest.mark.skipif("HBT_SLOW_TESTS" not in os.environ, reason="takes 40 s: set HBT_SLOW_TESTS")
def test_watchdog_names_a_stopped_worker_and_the_weights_stay_equal(cluster, corpus, tmp_path, monkeypatch):
    train = {"workers": 2, "steps": 60, "checkpoint_every": 10, "step_timeout_s": STEP_TIMEOUT_S}
    config = tiny_config(corpus, train=train, tracking={"log_model": False})
    reported = threading.Event()
    notices: list[tuple[float, str]] = []
    notice = ProgressMonitor.notice

    def record(self: ProgressMonitor, text: str) -> None:
        notices.append((time.monotonic(), text))
        if REPORT.match(text):
            reported.set()
        notice(self, text)

    monkeypatch.setattr(ProgressMonitor, "notice", record)
    stopped_s: list[float] = []

    def stop_a_worker() -> None:
        until = time.monotonic() + 120
        while newest_step(tmp_path / "stopped") == 0 and time.monotonic() < until:
            time.sleep(0.01)
        worker = next(processes_of_cluster("RayTrainWorker"))
        worker.suspend()
        stopped_s.append(time.monotonic())
        reported.wait(60)
        worker.resume()

    stopper = threading.Thread(target=stop_a_worker)
    stopper.start()
    run(config, tmp_path / "stopped")
    stopper.join()
    [(reported_s, report)] = [(when_s, REPORT.match(text)) for when_s, text in notices if REPORT.match(text)]
    assert reported_s - stopped_s[0] <= STEP_TIMEOUT_S + MARGIN_S
    assert {report["stopped"], report["waiting"]} == {"0", "1"}
    stacks = (tmp_path / "stopped" / "stacks.txt").read_text()
    assert report["stacks"] == str(tmp_path / "stopped" / "stacks.txt")
    assert f"# rank {report['waiting']}, step" in stacks
    assert "train_loop_per_worker" in stacks
    assert not any("failed" in text for _, text in notices)

    run(config, tmp_path / "reference")
    model = "model/model.safetensors"
    assert (tmp_path / "stopped" / model).read_bytes() == (tmp_path / "reference" / model).read_bytes()
