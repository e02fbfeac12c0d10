"""Tracking from several processes at the same time."""

from __future__ import annotations

import os
from pathlib import Path

from hbt_ray.config import build_config
from hbt_ray.tracking import Tracker, training_runs
from hbt_ray.utils.storage import StoragePath
from tests.helpers.forked import forked_process


def _track_run(folder: Path, name: str) -> None:
    """Track an empty run; what is printed is in the log of its name."""
    output = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    Tracker.start(
        f"sqlite:///{folder}/mlflow.db", "hbt", name, build_config({}), StoragePath.of(folder / name)
    ).finish()


def test_concurrent_first_runs_share_one_store(tmp_path: Path):
    processes = [forked_process(_track_run, tmp_path, name) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    # They print nothing: MLflow would report migrations, and a missing git.
    assert [(tmp_path / f"{name}.log").read_bytes() for name in ("a", "b")] == [b"", b""]
    runs = training_runs(f"sqlite:///{tmp_path}/mlflow.db", "hbt")
    assert sorted(run.name for run in runs) == ["a", "b"]
    assert {run.status for run in runs} == {"FINISHED"}
