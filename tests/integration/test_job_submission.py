import shutil
import subprocess
import sys
import time
from pathlib import Path

from hbt_ray.config import dump_config
from hbt_ray.tracking import training_runs
from tests.helpers.paths import REPOSITORY
from tests.integration.conftest import tiny_config


def submit(dashboard: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Run `ray job submit`, again while the node that just started has no agent to take a job yet."""
    ray = Path(sys.executable).with_name("ray")
    words = [ray, "job", "submit", "--address", dashboard, "--working-dir", REPOSITORY, "--", sys.executable, *command]
    for _ in range(30):
        submitted = subprocess.run(words, capture_output=True, text=True, timeout=300)
        if "No available agent" not in submitted.stdout + submitted.stderr:
            break
        time.sleep(2)
    return submitted


def test_submitted_training_job_finishes_and_is_tracked(dashboard, corpus, mlflow_tables, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(tiny_config(corpus, tracking={"log_model": False})))
    out = tmp_path / "runs" / "job"
    out.parent.mkdir()
    shutil.copy(mlflow_tables, out.parent / "mlflow.db")
    submitted = submit(dashboard, "jobs/train.py", "--config", config, "alpha=0.6", "--out", out)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    [tracked] = training_runs(f"sqlite:///{tmp_path}/runs/mlflow.db", "hbt")
    assert tracked.params["mix.alpha"] == "0.6"
    assert (out / "model" / "model.safetensors").exists()
