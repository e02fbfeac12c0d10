"""A worker that stops without failing is reported; it costs nothing if it continues, and is replaced if it does not."""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hbt_ray.cluster.pipelines.train import run
from hbt_ray.cluster.training.progress_monitor import ProgressMonitor
from hbt_ray.config import RunConfig
from tests.integration.conftest import tiny_config, write_corpus
from tests.integration.fault_injection import TIMES, newest_step, training_workers
from tests.integration.fault_record import FaultRecord, recovery_seconds

pytestmark = pytest.mark.skipif("HBT_SLOW_TESTS" not in os.environ, reason="takes minutes: set HBT_SLOW_TESTS")
STOPS = max(TIMES, 1)
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
    settings = {
        "workers": 2,
        "steps": 60 * STOPS,
        "max_failures": 2 * STOPS,
        "checkpoint_every": 10,
        "step_timeout_s": STEP_TIMEOUT_S,
    }
    return tiny_config(corpus, train=settings | train, tracking={"log_model": False})


def model_of(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@contextlib.contextmanager
def stopped_workers(out: Path, count: Callable[[], int], *, resume: bool) -> Iterator[tuple[list[float], list[float]]]:
    """Stop one worker after a checkpoint of the run, `STOPS` times; yield the lists of when, and of the recoveries.

    Args:
        out: the run's folder.
        count: returns how many stops have had their effect; each ends then.
        resume: continue the worker then.
    """
    stopped_s: list[float] = []
    recovery_s: list[float] = []

    steps = two_worker_config(out).train.steps

    def stop() -> None:
        step = 0
        for number in range(STOPS):
            deadline_s = time.monotonic() + 120
            while newest_step(out) <= step and time.monotonic() < deadline_s:
                time.sleep(0.01)
            step = newest_step(out)
            running = (p for p in training_workers() if p.status() != psutil.STATUS_STOPPED)
            worker = random.Random(number).choice(list(running))
            worker.suspend()
            stopped_s.append(time.monotonic())
            while count() <= number and time.monotonic() < deadline_s:
                time.sleep(0.05)
            if resume:
                worker.resume()
            dying = [] if resume else [worker]
            recovery_s.extend(
                recovery_seconds(lambda: newest_step(out), stopped_s[-1], dying, lambda: newest_step(out) == steps)
            )

    thread = threading.Thread(target=stop)
    thread.start()
    yield stopped_s, recovery_s
    thread.join()


def test_watchdog_names_a_stopped_worker_and_the_weights_stay_equal(reference_run, tmp_path, notices):
    corpus, expected = reference_run
    out = tmp_path / "run"

    def reports() -> list[tuple[float, re.Match[str]]]:
        return [(when_s, match) for when_s, text in notices if (match := REPORT.match(text))]

    with stopped_workers(out, lambda: len(reports()), resume=True) as (stopped_s, recovery_s):
        run(two_worker_config(corpus), out)
    assert len(stopped_s) == len(reports()) == STOPS
    stacks = (out / "stacks.txt").read_text()
    for when_s, (reported_s, report) in zip(stopped_s, reports(), strict=True):
        assert reported_s - when_s <= STEP_TIMEOUT_S + MARGIN_S
        assert {report["stopped"], report["waiting"]} == {"0", "1"}
        assert report["stacks"] == str(out / "stacks.txt")
        assert f"# rank {report['waiting']}, step" in stacks
    assert "train_loop_per_worker" in stacks
    assert not any("failed" in text for _, text in notices)
    assert model_of(out) == expected
    latest_s = max(reported_s - when_s for when_s, (reported_s, _) in zip(stopped_s, reports(), strict=True))
    compared = f"rank and phase named {latest_s:.1f} s later at most; weights equal byte for byte"
    fault = "a worker of two stopped (SIGSTOP) for longer than `step_timeout_s`, then continued"
    FaultRecord(fault, compared, STOPS, recovery_s, steps_lost=0).write()


def test_stopped_worker_is_replaced_after_the_collective_timeout(reference_run, tmp_path, notices):
    corpus, expected = reference_run
    out = tmp_path / "run"

    def restarts() -> list[float]:
        return [when_s for when_s, text in notices if "starting again" in text]

    with stopped_workers(out, lambda: len(restarts()), resume=False) as (stopped_s, recovery_s):
        run(two_worker_config(corpus, collective_timeout_s=COLLECTIVE_TIMEOUT_S), out)
    assert len(stopped_s) == STOPS
    for when_s, restarted_s in zip(stopped_s, restarts(), strict=True):
        assert restarted_s - when_s <= COLLECTIVE_TIMEOUT_S + 2 * MARGIN_S
    resumed = [text for _, text in notices if "resuming from the checkpoint of step" in text]
    assert len(resumed) == STOPS
    assert model_of(out) == expected
    fault = f"a worker of two stopped for good, replaced after `collective_timeout_s` of {COLLECTIVE_TIMEOUT_S:g} s"
    FaultRecord(fault, "weights equal byte for byte", STOPS, recovery_s).write()
