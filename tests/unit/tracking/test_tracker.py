"""Runs in a SQLite store, and in a real MLflow server on the loopback interface."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_ray.config import RunConfig, build_config
from hbt_ray.errors import TrackingError
from hbt_ray.tracking import Tracker, check_reachable, tracked_name, training_runs, ui_command
from hbt_ray.utils.storage import StoragePath
from tests.helpers.slow import slow
from tests.helpers.small_disk import small_disk
from tests.unit.tracking.conftest import CONFIG, SENTENCES, StartRun, run_of, values_of

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_import_does_not_load_mlflow():
    code = "import sys, hbt_ray.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_restarted_run_resumes_the_same_mlflow_run(start_run: StartRun):
    first = start_run("restarted")
    first.log_metrics({"train/loss": 2.0}, step=1)
    first.finish("FAILED")

    second = start_run("restarted")
    assert second.run_id == first.run_id
    assert run_of(second).info.status == "RUNNING"
    second.log_metrics({"train/loss": 1.0}, step=2)
    second.finish()

    assert values_of(second, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert run_of(second).info.status == "FINISHED"


def test_parameters_are_flat_and_a_change_on_resume_is_a_tag(start_run: StartRun):
    tracker = start_run("params")
    run = run_of(tracker)
    assert run.data.params["mix.alpha"] == "0.6"
    assert run.data.params["corpora.small.format"] == "embedded"
    assert run.data.params["text.max_query_tokens"] == "64"
    expected = {"strategy": "hybrid", "alpha": "0.6", "seed": "7", "hbt_version": "0.1.0"}
    assert expected.items() <= run.data.tags.items()

    longer = RunConfig.model_validate({**CONFIG.model_dump(), "train": {"steps": 900}})
    start_run("params", longer)
    run = run_of(tracker)
    assert run.data.params["train.steps"] == "600"
    assert run.data.tags["resumed.train.steps"] == "900"


def test_values_over_mlflows_limit_are_clipped(start_run: StartRun):
    config = build_config({"text": {"query_prefix": "x" * 7000}})
    tracker = start_run("long", config)
    assert run_of(tracker).data.params["text.query_prefix"] == "x" * 6000


def test_run_that_mlflow_lost_is_created_again(start_run: StartRun, runs_dir: Path, caplog: pytest.LogCaptureFixture):
    id_file = runs_dir / "lost" / "mlflow_run_id"
    id_file.parent.mkdir()
    id_file.write_text("0" * 32)
    tracker = start_run("lost")
    assert tracker.run_id != "0" * 32
    assert id_file.read_text().strip() == tracker.run_id
    assert "no longer has run" in caplog.text


def test_moved_folder_keeps_its_run_and_a_copied_one_gets_its_own(
    start_run: StartRun, runs_dir: Path, caplog: pytest.LogCaptureFixture
):
    first = start_run("original")
    (runs_dir / "original").rename(runs_dir / "moved")
    assert start_run("moved").run_id == first.run_id
    assert run_of(first).data.tags["folder"] == str(runs_dir / "moved")
    (runs_dir / "link").symlink_to(runs_dir / "moved")
    assert start_run("link").run_id == first.run_id
    assert "copy" not in caplog.text

    shutil.copytree(runs_dir / "moved", runs_dir / "copy")
    copy = start_run("copy")
    assert copy.run_id != first.run_id
    assert f"{runs_dir}/copy is a copy of {runs_dir}/link; a new MLflow run is made" in caplog.text
    assert start_run("copy").run_id == copy.run_id
    assert start_run("moved").run_id == first.run_id

    shutil.rmtree(runs_dir / "copy")
    shutil.copytree(runs_dir / "moved", runs_dir / "other-disk")  # as `mv` does between file systems
    shutil.rmtree(runs_dir / "moved")
    assert start_run("other-disk").run_id == first.run_id


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("xquad-r/mono/map", "xquad-r/mono/map"),
        ("xquad-r/de-en/recall@10", "xquad-r/de-en/recall_at_10"),
        ("a:b(c)", "a_b_c_"),
        ("/a//b/../c", "a/c"),
        ("sprache/größe", "sprache/größe"),
        ("x" * 300, "x" * 250),
    ],
)
def test_metric_names_map_to_ones_that_mlflow_allows(name: str, kept: str):
    from mlflow.utils.validation import _validate_metric_name

    assert tracked_name(name) == kept == tracked_name(kept)
    _validate_metric_name(kept)


def test_data_sets_are_logged_once_with_source_and_profile(start_run: StartRun):
    tracker = start_run("data")
    for _ in range(2):
        tracker.log_dataset("small", "0123456789abcdef", "/data/store", {"items": 3, "languages": ["de"]}, "training")
    tracker.log_dataset("xquad-r", "fedcba9876543210", "s3://ada:pass@bucket/x", {}, "evaluation")
    inputs = {i.dataset.name: i for i in run_of(tracker).inputs.dataset_inputs}
    assert len(run_of(tracker).inputs.dataset_inputs) == 2
    small = inputs["small"].dataset
    assert small.digest == "0123456789abcdef"
    assert json.loads(small.source) == {"uri": "/data/store"}
    assert json.loads(small.profile) == {"items": 3, "languages": ["de"]}
    assert inputs["xquad-r"].tags[0].value == "evaluation"
    assert "pass" not in inputs["xquad-r"].dataset.source


def test_artifacts_and_tables_are_files_next_to_a_sqlite_store(start_run: StartRun, runs_dir: Path, tmp_path: Path):
    tracker = start_run("files")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "loss.svg").write_text("<svg/>")
    tracker.log_artifacts(tmp_path / "figures", "report")
    tracker.log_artifacts(tmp_path / "figures" / "loss.svg")
    tracker.log_text("tracking: {uri: http://ada:pass@tracking:5000}", "config.yaml")
    tracker.log_table("languages", [{"language": "de", "map": 0.1}])
    tracker.log_table("languages", [{"language": "de", "map": 0.5}, {"language": "ru", "map": math.nan, "queries": 2}])
    folder = runs_dir / "mlartifacts" / tracker.run_id / "artifacts"
    assert (folder / "report" / "loss.svg").read_text() == (folder / "loss.svg").read_text() == "<svg/>"
    assert (folder / "config.yaml").read_text() == "tracking: {uri: http://***@tracking:5000}"
    table = json.loads((folder / "tables" / "languages.json").read_text())
    assert table == {"columns": ["language", "map", "queries"], "data": [["de", 0.5, None], ["ru", None, 2]]}


def test_system_metrics_resume_after_a_restart(start_run: StartRun):
    tracker = start_run("system")
    for _ in range(2):
        with tracker.system_metrics(interval_s=0.1):
            time.sleep(0.5)
    steps = [step for step, _ in values_of(tracker, "system/cpu_utilization_percentage")]
    assert len(steps) >= 2
    assert steps == list(range(len(steps)))


def test_last_system_metrics_are_sent_with_a_short_timeout(start_run: StartRun, monkeypatch: pytest.MonkeyPatch):
    from mlflow.utils.autologging_utils import BatchMetricsLogger

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    timeouts: list[str | None] = []
    monkeypatch.setattr(
        BatchMetricsLogger, "flush", lambda self: timeouts.append(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT"))
    )
    with start_run("last").system_metrics(interval_s=0.1):
        pass
    assert timeouts == ["4"]


def test_deleted_experiment_is_refused_with_a_remedy(sqlite_uri: str, tmp_path: Path):
    from mlflow import MlflowClient

    check_reachable(sqlite_uri)
    MlflowClient(sqlite_uri).delete_experiment(MlflowClient(sqlite_uri).create_experiment("gone"))
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        Tracker.start(sqlite_uri, "gone", "a", CONFIG, StoragePath.of(tmp_path / "id"))


def test_server_accepts_runs_metrics_artifacts_and_models(
    server_uri: str, tmp_path: Path, model_dir: Path, set_tracking_uri
):
    import mlflow

    id_file = tmp_path / "mlflow_run_id"
    tracker = Tracker.start(server_uri, "hbt", "remote", CONFIG, StoragePath.of(id_file))
    tracker.log_metrics({"loss": 1.0, "xquad-r/mono/ndcg@10": 0.25, "nothing": math.nan}, step=1)
    tracker.log_dataset("small", "0123456789abcdef", "/data/store", {"items": 3}, "training")
    tracker.log_text("seed: 7", "config.yaml")
    uri = tracker.log_model(model_dir, "tiny")
    with tracker.system_metrics(interval_s=0.1):
        time.sleep(0.3)
    tracker.finish()
    assert Tracker.start(server_uri, "hbt", "remote", CONFIG, StoragePath.of(id_file)).run_id == tracker.run_id

    (run,) = training_runs(server_uri, "hbt")
    assert run.metrics["xquad-r/mono/ndcg_at_10"] == 0.25
    assert math.isnan(run.metrics["nothing"])
    assert run.params["mix.alpha"] == "0.6"
    set_tracking_uri(server_uri)
    assert mlflow.artifacts.load_text(f"runs:/{run.run_id}/config.yaml") == "seed: 7"
    assert mlflow.sentence_transformers.load_model(uri).encode(SENTENCES).shape == (3, 16)
    assert ui_command(server_uri) == f"open {server_uri}"


def test_secrets_are_redacted_from_parameters_and_tags(start_run: StartRun):
    config = build_config(
        {
            "prepare": {"evaluation_sets": {"hf_token": "abc", "xquad-r": "https://ada:pass@h/x"}},
            "tracking": {"uri": "http://ada:pass@tracking:5000"},
        }
    )
    tracker = start_run("secret", config)
    tracker.set_tags({"api_key": "abc", "place": "ftp://ada:pass@h"})
    run = run_of(tracker)
    assert run.data.params["prepare.evaluation_sets.hf_token"] == run.data.tags["api_key"] == "***"
    assert run.data.params["prepare.evaluation_sets.xquad-r"] == "https://***@h/x"
    assert not any("pass" in value for value in [*run.data.params.values(), *run.data.tags.values()] if "://" in value)


@pytest.mark.parametrize(
    ("arguments", "handed_on", "source"),
    [
        (["/bin/hbt", "train", "--out", "https://ada:pass@h/x"], None, "hbt train --out 'https://***@h/x'"),
        (["/lib/default_worker.py", "--id=3"], "hbt quickstart", "hbt quickstart"),
        (["/lib/default_worker.py", "--id=3"], None, ""),
    ],
)
def test_source_of_a_run_is_the_users_command(start_run: StartRun, monkeypatch, arguments, handed_on, source):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.delenv("HBT_COMMAND", raising=False)
    if handed_on:
        monkeypatch.setenv("HBT_COMMAND", handed_on)
    assert run_of(start_run(f"source-{len(source)}")).data.tags.get("mlflow.source.name", "") == source


def test_commit_of_a_submitted_job_is_in_its_metadata(start_run: StartRun, monkeypatch: pytest.MonkeyPatch):
    job = {"metadata": {"job_submission_id": "raysubmit_1", "git_commit": "f00d"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert run_of(start_run("job")).data.tags["mlflow.source.git.commit"] == "f00d"


def test_data_set_that_another_run_adds_meanwhile_is_logged(start_run: StartRun, monkeypatch: pytest.MonkeyPatch):
    import mlflow
    from mlflow.exceptions import MlflowException

    tracker, calls = start_run("race"), []
    log_inputs = mlflow.MlflowClient.log_inputs

    def log_second_time(client: mlflow.MlflowClient, *arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")
        log_inputs(client, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", log_second_time)
    tracker.log_dataset("embedded", "abc", "embedded", {"queries": 3}, "evaluation")
    assert [one.dataset.name for one in run_of(tracker).inputs.dataset_inputs] == ["embedded"]


DISK_IS_FULL = r"^cannot .* in MLflow at sqlite:///.*/disk/mlflow.db \(No space left on device\); free disk space"


@slow
def test_full_disk_of_the_store_is_one_sentence_and_loses_no_metric(
    tmp_path: Path, create_mlflow_tables: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hbt_ray.tracking.server._create_sqlite", create_mlflow_tables)
    draw, sent = random.Random(11), []
    with small_disk(tmp_path / "disk") as disk:
        uri = f"sqlite:///{disk.folder}/mlflow.db"

        def start(name: str) -> Tracker:
            folder = tmp_path / name
            return Tracker.start(uri, "e", name, CONFIG, StoragePath.of(folder / "id"), folder / "unsent.jsonl")

        check_reachable(uri)
        size = disk.used
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):  # before a run: no part of a store is left
            other = disk.folder / f"mlflow-{share}.db"
            disk.leave(int(share * size))
            with pytest.raises(TrackingError, match=r"mlflow-.*No space left on device\); free disk space"):
                check_reachable(f"sqlite:///{other}")
            assert [path.name for path in disk.folder.iterdir()] == ["mlflow.db"]
        disk.make_space()
        check_reachable(f"sqlite:///{other}")
        for name in "abcde":  # during a run: values wait in a file, and the next call sends them
            tracker, steps, full_at = start(name), 60, draw.randint(2, 50)
            for step in range(steps):
                if step == full_at:
                    disk.leave(0)
                tracker.log_metrics({f"m{number}": 0.5 for number in range(40)}, step)
            with pytest.raises(TrackingError, match=DISK_IS_FULL):
                tracker.finish()
            kept = len((tmp_path / name / "unsent.jsonl").read_text().splitlines())
            disk.make_space()
            resumed = start(name)
            assert resumed.run_id == tracker.run_id
            assert values_of(resumed, "m7") == [(step, 0.5) for step in range(steps)]
            assert not (tmp_path / name / "unsent.jsonl").exists()
            sent.append((full_at, kept))
    print(f"\nMLflow's disk full: (before step, values kept) {sent}")
