from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_ray.tracking import Tracker, ui_guide
from hbt_ray.tracking.presentation import VIEW_TAG
from hbt_ray.tracking.server import mlflow_client

StartRun = Callable[..., Tracker]
RESULTS = {"xquad-r": {"mono/map": 0.5, "multi/rank_distance": 1234.5}, "mlqa-r": {"mono/map": 0.25}}


@pytest.fixture
def presented(start_run: StartRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setenv("HBT_COMMAND", "hbt train --out /data/run")
    tracker = start_run("presented")
    profile = {"train": 1200, "validation": 0, "languages": ["de", "en"], "queries/de": 7}
    tracker.log_dataset("faq", "f00d", "/data/faq", profile, "training")
    tracker.present_results(RESULTS)
    return tracker


def view_of(tracker: Tracker) -> dict:
    client = mlflow_client(tracker.uri)
    experiment = client.get_experiment(client.get_run(tracker.run_id).info.experiment_id)
    return json.loads(experiment.tags[VIEW_TAG])


def test_description_has_results_data_and_command(presented: Tracker):
    text = mlflow_client(presented.uri).get_run(presented.run_id).data.tags["mlflow.note.content"]
    assert text.splitlines() == [
        "| | mono/map | multi/rank_distance |",
        "|---|---|---|",
        "| xquad-r | 0.5 | 1,234 |",
        "| mlqa-r | 0.25 |  |",
        "",
        "- training: faq (1,200 train, 2 languages)",
        "",
        "    hbt train --out /data/run",
    ]


def test_runs_view_has_tags_and_metrics_as_columns_and_charts(presented: Tracker):
    view = view_of(presented)
    assert {"tags.`alpha`", "metrics.`xquad-r/mono/map`", "metrics.`mlqa-r/mono/map`"} <= set(view["selectedColumns"])
    bars = [chart["metricKey"] for chart in view["compareRunCharts"] if chart["type"] == "BAR"]
    assert bars == ["xquad-r/mono/map", "xquad-r/multi/rank_distance", "mlqa-r/mono/map"]


def test_later_run_adds_its_metrics_to_the_view(presented: Tracker):
    presented.present_results({"miracl": {f"mono/{number}": 1.0 for number in range(20)}})
    assert view_of(presented)["metrics"][:4] == [
        *("xquad-r/mono/map", "xquad-r/multi/rank_distance", "mlqa-r/mono/map", "miracl/mono/0")
    ]
    assert len(view_of(presented)["metrics"]) == 12


def test_guide_links_to_the_view(presented: Tracker):
    command, link = ui_guide(presented.uri, presented.experiment).splitlines()
    assert command.startswith("mlflow ui")
    assert link.endswith("/runs?workflowType=machine_learning&viewStateShareKey=headline")


def test_guide_of_a_store_that_does_not_answer_is_the_command():
    assert ui_guide("http://127.0.0.1:9", "tiny") == "open http://127.0.0.1:9"
