"""What MLflow's pages show first: a run's description, and the columns and charts of an experiment's runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hbt_ray.utils.limits import load_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

VIEW = "headline"  # `viewStateShareKey` of links
# MLflow's UI reads the state of a shared view, as JSON, from this tag of the experiment.
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_TAG_COLUMNS = ("strategy", "alpha", "seed")
_MAX_METRICS = 12
_SECTION = "headline"


def describe_run(run: Run, results: Mapping[str, Mapping[str, float]]) -> str:
    """Return a description in Markdown: results, data sets and command.

    Args:
        run: with its data sets and tags.
        results: row -> column -> value.
    """
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in results.items():
        cells = [f"{row[column]:,.4g}" if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    used = []
    for given in run.inputs.dataset_inputs if run.inputs else ():
        profile = load_json(given.dataset.profile or "{}")
        languages = profile.get("languages")
        counted = [
            f"{value:,} {key}" for key, value in profile.items() if isinstance(value, int) and value and "/" not in key
        ]
        if isinstance(languages, Sequence) and not isinstance(languages, str):
            counted.append(f"{len(languages)} languages")
        context = next((tag.value for tag in given.tags if tag.key == "mlflow.data.context"), "data")
        used.append(f"- {context}: {given.dataset.name}" + (f" ({', '.join(counted)})" if counted else ""))
    command = run.data.tags.get("mlflow.source.name")
    return "\n".join([*lines, "", *used, *(["", f"    {command}"] if command else [])])


def save_runs_view(client: MlflowClient, experiment_id: str, metrics: Sequence[str]) -> None:
    """Make links with `VIEW` open the experiment's runs with these metrics as columns, and a bar chart of each.

    Metrics of earlier calls stay, `_MAX_METRICS` in all.

    Args:
        client: of the store.
        experiment_id: of the experiment.
        metrics: names as MLflow has them.
    """
    tags = client.get_experiment(experiment_id).tags
    before = load_json(tags[VIEW_TAG])["metrics"] if VIEW_TAG in tags else []
    shown = list(dict.fromkeys([*before, *metrics]))[:_MAX_METRICS]
    if shown == before:
        return
    columns = {f"tags.`{tag}`": 90 for tag in _TAG_COLUMNS}
    columns |= {f"metrics.`{name}`": 60 + 8 * len(name) for name in shown}  # pixels: names are not cut
    charts = [_chart(number, "BAR", metricKey=name) for number, name in enumerate(shown)]
    parameters = ["mix.alpha", "seed"]
    charts.insert(0, _chart(len(shown), "PARALLEL", selectedParams=parameters, selectedMetrics=shown[:4]))
    section = {"uuid": _SECTION, "name": "Headline metrics", "display": True, "isReordered": True, "deleted": False}
    state = {
        "metrics": shown,  # not MLflow's
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }
    client.set_experiment_tag(experiment_id, VIEW_TAG, json.dumps(state))


def _chart(number: int, kind: str, **settings: object) -> dict[str, object]:
    chart = {"uuid": f"{_SECTION}-{number}", "type": kind, "metricSectionId": _SECTION, "runsCountToCompare": 20}
    return {**chart, "deleted": False, "isGenerated": False, **settings}
