"""The callback that shows and tracks trials, with trials as Tune describes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.search.config import SearchConfig
from hbt_ray.tracking import check_reachable, training_runs

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_each_trial_is_a_run_and_no_step_is_tracked_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    search = SearchConfig.model_validate(
        {"space": {"mix.alpha": {"uniform": [0, 1]}}, "algorithm": "pbt", "measure_every": 20}
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    check_reachable(uri)
    callback = pickle.loads(pickle.dumps(TuneProgressCallback(search, tmp_path / "search", uri, "parent")))
    result = {"step": 20, "metrics": {"held-out/mono/map": 0.5}}
    trial = SimpleNamespace(trial_id="x_00003", config={"mix.alpha": 0.25}, last_result=result)
    callback.on_trial_start(0, [], trial)
    for _ in range(2):
        callback.on_trial_result(0, [], trial, result)
    callback.on_trial_complete(0, [], trial)
    callback.on_experiment_end([])

    [run] = training_runs(uri, "hbt")
    assert (run.name, run.status) == ("member=3", "FINISHED")
    assert run.metrics == {"held-out/mono/map": 0.5, "alpha": 0.25}
    assert run.tags["searched.mix.alpha"] == "0.25"
    assert run.tags["state"] == "stopped"
    lines = [line.split("  ")[1:] for line in capsys.readouterr().err.splitlines()]
    assert [line[-1] for line in lines] == ["running", "running", "stopped"]
    assert lines[1][:3] == ["member=3", "step 20/600", "mono/map 0.5000"]
