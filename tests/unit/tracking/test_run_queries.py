"""Runs read back from MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.config import build_config
from hbt_ray.errors import TrackingError
from hbt_ray.tracking import Tracker, training_runs
from hbt_ray.utils.storage import StoragePath
from tests.unit.tracking.conftest import run_of

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_runs_are_read_back_by_name_id_and_tag(tmp_path: Path, sqlite_uri: str):
    trackers = {}
    for alpha in (0.0, 1.0):
        config = build_config({"mix": {"alpha": alpha}})
        name = f"alpha-{alpha}"
        trackers[name] = Tracker.start(
            sqlite_uri, "compare", name, config, StoragePath.of(tmp_path / name / "mlflow_run_id")
        )
        trackers[name].log_metrics({"xquad-r/mono/map": alpha / 2}, step=600)
    both = training_runs(sqlite_uri, "compare")
    assert [(run.name, run.metrics) for run in both] == [
        ("alpha-0.0", {"xquad-r/mono/map": 0.0}),
        ("alpha-1.0", {"xquad-r/mono/map": 0.5}),
    ]
    (by_id,) = training_runs(sqlite_uri, "compare", [trackers["alpha-1.0"].run_id])
    (by_tag,) = training_runs(sqlite_uri, "compare", tags={"alpha": "1.0"})
    assert by_id == by_tag == both[1]
    assert training_runs(sqlite_uri, run_of(trackers["alpha-0.0"]).info.experiment_id) == both
    first = trackers["alpha-1.0"].run_id
    assert training_runs(sqlite_uri, "compare", [first, "alpha-0.0", first]) == [both[1], both[0]]
    with pytest.raises(TrackingError, match=r"no run 'alpha-2'; there are alpha-0.0, alpha-1.0"):
        training_runs(sqlite_uri, "compare", ["alpha-2"])
    with pytest.raises(TrackingError, match=r"no experiment 'other'; there are .*'compare'"):
        training_runs(sqlite_uri, "other")
    with pytest.raises(TrackingError, match=r"there is no MLflow store .*none\.db; write --uri with"):
        training_runs(f"sqlite:///{tmp_path}/none.db", "compare")
