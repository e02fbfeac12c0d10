import subprocess
import sys
from pathlib import Path

from hbt_ray.config import dump_config
from hbt_ray.tracking import training_runs
from tests.cluster.conftest import tiny_config

REPOSITORY = Path(__file__).parents[2]


def test_a_submitted_training_job_finishes_and_its_run_is_in_mlflow(dashboard, corpus, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(tiny_config(corpus)))
    submitted = subprocess.run(
        [Path(sys.executable).with_name("ray"), "job", "submit", "--address", dashboard, "--working-dir", REPOSITORY]
        + ["--", sys.executable, "jobs/train.py", "--config", config, "alpha=0.6", "--out", tmp_path / "runs" / "job"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    [tracked] = training_runs(f"sqlite:///{tmp_path}/runs/mlflow.db", "hbt")
    assert tracked.params["mix.alpha"] == "0.6"
    assert (tmp_path / "runs" / "job" / "model" / "model.safetensors").exists()
