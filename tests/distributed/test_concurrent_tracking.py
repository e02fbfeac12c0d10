"""Tracking from several processes at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hbt_ray.tracking import training_runs


def test_concurrent_first_runs_share_one_store(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from hbt_ray.config import build_config;"
        "from hbt_ray.utils.storage import StoragePath; from hbt_ray.tracking import Tracker;"
        "folder, name = Path(sys.argv[1]), sys.argv[2];"
        "uri, run_id = f'sqlite:///{folder}/mlflow.db', StoragePath.of(folder / name);"
        "t = Tracker.start(uri, 'hbt', name, build_config({}), run_id);"
        "t.finish()"
    )
    commands = [[sys.executable, "-c", code, str(tmp_path), name] for name in ("a", "b")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for command in commands]
    # They print nothing: MLflow would report migrations, and a missing git.
    assert [process.communicate(timeout=60)[0] for process in started] == [b"", b""]
    runs = training_runs(f"sqlite:///{tmp_path}/mlflow.db", "hbt")
    assert sorted(run.name for run in runs) == ["a", "b"]
    assert {run.status for run in runs} == {"FINISHED"}
