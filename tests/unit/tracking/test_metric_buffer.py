"""Metrics while MLflow does not answer, and once it does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from hbt_ray.errors import TrackingError
from hbt_ray.tracking import metric_buffer
from hbt_ray.tracking.metric_buffer import MetricBuffer, MetricPoint
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages_of, malformed_cases
from tests.helpers.full_disk import no_file_above
from tests.helpers.ports import free_port
from tests.unit.tracking.conftest import StartRun, run_of, values_of

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_buffer_appends_failed_points_to_its_file_and_deletes_it_once_sent(tmp_path: Path):
    file = tmp_path / "unsent.jsonl"
    buffer = MetricBuffer("run", file)
    one, two, three = (MetricPoint("loss", 1.0, 1000, step) for step in (1, 2, 3))

    def refuse(points: Sequence[MetricPoint]) -> None:
        raise TrackingError("no answer")

    buffer.log([one], refuse)
    buffer.log([two], refuse)
    assert [json.loads(line)[:-1] for line in file.read_text().splitlines()] == [["run", *one], ["run", *two]]

    sent: list[MetricPoint] = []
    next_process = MetricBuffer("run", file)
    next_process.load()
    next_process.log([three], sent.extend)
    assert sent == [one, two, three]
    assert not file.exists()

    file.write_text(json.dumps(["another run", *one]) + "\n")
    next_process.load()
    next_process.log([], sent.extend)
    assert sent == [one, two, three]


def test_store_that_never_answers_takes_a_sixteenth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now_s = 1000.0
    monkeypatch.setattr(metric_buffer, "time", SimpleNamespace(monotonic=lambda: now_s))
    buffer = MetricBuffer("run", tmp_path / "unsent.jsonl")
    points = [MetricPoint("loss", 1.0, 1000, step) for step in range(1000)]

    def hang(points: Sequence[MetricPoint]) -> None:
        nonlocal now_s
        now_s += 4.0
        raise TrackingError("no answer")

    for point in points:
        buffer.log([point], hang)
        now_s += 0.1
    assert now_s == pytest.approx(1000.0 + 100.0 + 8.0)
    assert len((tmp_path / "unsent.jsonl").read_text().splitlines()) == 1000

    sent: list[MetricPoint] = []
    buffer.log([], sent.extend)
    assert sent == []
    buffer.log([], sent.extend, at_once=True)
    assert sent == points
    assert not (tmp_path / "unsent.jsonl").exists()


def test_points_of_a_pause_are_sent_after_it(monkeypatch: pytest.MonkeyPatch):
    now_s = 1000.0
    monkeypatch.setattr(metric_buffer, "time", SimpleNamespace(monotonic=lambda: now_s))
    buffer, sent = MetricBuffer("run"), list[MetricPoint]()
    one, two, three, four = (MetricPoint("loss", 1.0, 1000, step) for step in (1, 2, 3, 4))

    def hang(points: Sequence[MetricPoint]) -> None:
        nonlocal now_s
        now_s += 4.0
        raise TrackingError("no answer")

    buffer.log([one], hang)
    now_s += 59.0
    buffer.log([two], sent.extend)
    assert sent == []
    now_s += 1.0
    buffer.log([three], sent.extend)
    assert sent == [one, two, three]
    buffer.log([four], sent.extend)
    assert sent == [one, two, three, four]


def test_metrics_wait_for_a_store_that_does_not_answer(
    sqlite_uri: str, start_run: StartRun, caplog: pytest.LogCaptureFixture
):
    tracker = start_run("waits")
    tracker.uri = f"http://127.0.0.1:{free_port()}"
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_metrics({"loss": 1.5}, step=2)
    assert caplog.text.count("no MLflow server answers") == 1
    tracker = pickle.loads(pickle.dumps(tracker))
    tracker.uri = sqlite_uri
    tracker.log_metrics({"loss": 1.0}, step=3)
    assert values_of(tracker, "loss") == [(1, 2.0), (2, 1.5), (3, 1.0)]


def test_metrics_in_the_file_are_sent_when_the_run_resumes(start_run: StartRun, runs_dir: Path):
    unsent = runs_dir / "kept" / "unsent.jsonl"
    tracker = start_run("kept", unsent_file=unsent)
    tracker.log_metrics({"loss": 3.0}, step=0)
    tracker.uri = f"http://127.0.0.1:{free_port()}"
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_metrics({"loss": 1.5}, step=2)
    with unsent.open("a") as file:
        file.write('["cut sho')  # its writer was killed
    again = start_run("kept", unsent_file=unsent)
    assert again.run_id == tracker.run_id
    assert values_of(again, "loss") == [(0, 3.0), (1, 2.0), (2, 1.5)]
    assert not unsent.exists()


def test_more_metrics_than_one_request_holds_are_all_logged(start_run: StartRun):
    tracker = start_run("many")
    tracker.log_metrics({f"pair/{i}": i / 2 for i in range(1001)}, step=3)
    metrics = run_of(tracker).data.metrics
    assert len(metrics) == 1001
    assert metrics["pair/1000"] == 500.0


def test_full_disk_keeps_unsent_points_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    buffer = MetricBuffer("run", tmp_path / "unsent.jsonl")
    one, two = (MetricPoint("loss", 1.0, 1000, step) for step in (1, 2))

    def refuse(points: Sequence[MetricPoint]) -> None:
        raise TrackingError("no answer")

    with no_file_above(0):
        buffer.log([one], refuse)
    assert f"{tmp_path}/unsent.jsonl cannot be written (File too large)" in caplog.text
    sent: list[MetricPoint] = []
    buffer.log([two], sent.extend)
    assert sent == [one, two]


@malformed_cases(2 * EXAMPLES, damage=damages_of("cut", "flip", "delete", "empty", "insert", "overwrite", "value"))
def test_damaged_metrics_are_sent_as_logged_or_not_at_all(tmp_path_factory: pytest.TempPathFactory, damage: Damage):
    folder = tmp_path_factory.getbasetemp() / "kept"
    folder.mkdir(exist_ok=True)
    points = [MetricPoint("loss", step / 7, 1000 + step, step) for step in range(5)]
    file = folder / "unsent.jsonl"

    def refuse(points: Sequence[MetricPoint]) -> None:
        raise TrackingError("no answer")

    file.unlink(missing_ok=True)
    MetricBuffer("run", file).log(points, refuse)

    def send(folder: Path) -> list[MetricPoint]:
        buffer, sent = MetricBuffer("run", folder / "unsent.jsonl"), list[MetricPoint]()
        buffer.load()
        buffer._send_pending(sent.extend)
        return sent

    check_damaged(folder, damage, send, may_be=lambda found: all(point in points for point in found))
