"""A worker that stops without failing is reported; it costs nothing if it continues, and is replaced if it does not."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbt_ray.cluster.pipelines.train import run
from hbt_ray.cluster.training.progress_monitor import ProgressMonitor
from hbt_ray.config import RunConfig
from tests.integration.conftest import tiny_config, write_corpus
from tests.integration.fault_injection import newest_step, processes_of_cluster

pytestmark = pytest.mark.skipif("HBT_SLOW_TESTS" not in os.environ, reason="takes minutes: set HBT_SLOW_TESTS")
STEP_TIMEOUT_S = 5.0
COLLECTIVE_TIMEOUT_S = 20.0
MARGIN_S = 4.0  # for the ranks' stacks, a heartbeat and the driver's poll
REPORT = re.compile(
    r"step \d+ has taken \d+ s: rank (?P<stopped>[01]) is in [a-z /-]+ \(no heartbeat for \d+ s\), "
    r"rank (?P<waiting>[01]) is in (all-reduce|report); stacks in (?P<stacks>\S+)"
)


@pytest.fixture
def notices(monkeypatch) -> list[tuple[float, str]]:
    """Return the lines that the driver prints, and when."""
    recorded: list[tuple[float, str]] = []
    notice = ProgressMonitor.notice

    def record(self: ProgressMonitor, text: str) -> None:
        recorded.append((time.monotonic(), text))
        notice(self, text)

    monkeypatch.setattr(ProgressMonitor, "notice", record)
    return recorded


@pytest.fixture(scope="module")
def reference_run(cluster, tmp_path_factory) -> tuple[Path, bytes]:
    """Return a corpus, and the weights of a run over it whose workers were never stopped."""
    folder = tmp_path_factory.mktemp("reference")
    corpus = write_corpus(folder)
    run(two_worker_config(corpus), folder / "run")
    return corpus, model_of(folder / "run")


def two_worker_config(corpus: Path, **train: float) -> RunConfig:
    settings = {"workers": 2, "steps": 60, "checkpoint_every": 10, "step_timeout_s": STEP_TIMEOUT_S}
    return tiny_config(corpus, train=settings | train, tracking={"log_model": False})


def model_of(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@contextlib.contextmanager
def stopped_worker(out: Path, until: Callable[[], bool], *, resume: bool) -> Iterator[list[float]]:
    """Stop one worker after the run's first checkpoint; yield the list that will hold when.

    Args:
        out: the run's folder.
        until: a condition that ends the stop.
        resume: continue the worker then.
    """
    stopped_s: list[float] = []

    def stop() -> None:
        deadline_s = time.monotonic() + 120
        while newest_step(out) == 0 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        worker = next(processes_of_cluster("RayTrainWorker"))
        worker.suspend()
        stopped_s.append(time.monotonic())
        while not until() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        if resume:
            worker.resume()

    thread = threading.Thread(target=stop)
    thread.start()
    yield stopped_s
    thread.join()


def test_watchdog_names_a_stopped_worker_and_the_weights_stay_equal(reference_run, tmp_path, notices):
    corpus, expected = reference_run
    out = tmp_path / "run"

    def reports() -> list[tuple[float, re.Match[str]]]:
        return [(when_s, match) for when_s, text in notices if (match := REPORT.match(text))]

    with stopped_worker(out, lambda: bool(reports()), resume=True) as stopped_s:
        run(two_worker_config(corpus), out)
    [(reported_s, report)] = reports()
    assert reported_s - stopped_s[0] <= STEP_TIMEOUT_S + MARGIN_S
    assert {report["stopped"], report["waiting"]} == {"0", "1"}
    assert report["stacks"] == str(out / "stacks.txt")
    stacks = (out / "stacks.txt").read_text()
    assert f"# rank {report['waiting']}, step" in stacks
    assert "train_loop_per_worker" in stacks
    assert not any("failed" in text for _, text in notices)
    assert model_of(out) == expected


def test_stopped_worker_is_replaced_after_the_collective_timeout(reference_run, tmp_path, notices):
    corpus, expected = reference_run
    out = tmp_path / "run"

    def restarts() -> list[float]:
        return [when_s for when_s, text in notices if "starting again" in text]

    with stopped_worker(out, lambda: bool(restarts()), resume=False) as stopped_s:
        run(two_worker_config(corpus, collective_timeout_s=COLLECTIVE_TIMEOUT_S), out)
    [restarted_s, *_] = restarts()
    assert restarted_s - stopped_s[0] <= COLLECTIVE_TIMEOUT_S + 2 * MARGIN_S
    assert any("resuming from the checkpoint of step" in text for _, text in notices)
    assert model_of(out) == expected
