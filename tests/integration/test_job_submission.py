"""A training that `ray job submit` runs on the cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hbt_ray.tracking import training_runs
from tests.helpers.background import BackgroundWork


@pytest.fixture
def submitted_job(cluster: None, work: BackgroundWork) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return the ended submission, and the folder of its runs."""
    return work.result("submitted_job")


def test_submitted_training_job_finishes_and_is_tracked(
    submitted_job: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    submitted, runs = submitted_job
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    [tracked] = training_runs(f"sqlite:///{runs}/mlflow.db", "hbt")
    assert tracked.params["mix.alpha"] == "0.6"
    assert (runs / "job" / "model" / "model.safetensors").exists()
