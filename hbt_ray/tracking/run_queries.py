"""Read the runs of an experiment, and the reports among their artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.errors import TrackingError
from hbt_ray.tracking.server import check_reachable, mlflow_client, mlflow_errors, sqlite_file
from hbt_ray.utils.redaction import redact_value

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True, slots=True)
class MlflowRun:
    """A run as MLflow returns it: parameters as text, the latest value of each metric."""

    name: str
    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str] = field(default_factory=dict)


def training_runs(
    uri: str, experiment: str, names: Sequence[str] = (), tags: Mapping[str, str] | None = None
) -> list[MlflowRun]:
    """Return the runs of an experiment, oldest first; those named are in the order of their names.

    Args:
        uri: of the MLflow store.
        experiment: its name or id.
        names: names or ids of runs; empty: all runs.
        tags: only runs with all of these tags.

    Raises:
        TrackingError: MLflow cannot be reached, has no such experiment, or lacks one of `names`.
    """
    file = sqlite_file(uri)
    if file and not file.exists():
        raise TrackingError(
            f"there is no MLflow store {file}; write --uri with the one the runs were tracked in, such as "
            "sqlite:////data/mlflow.db"
        )
    check_reachable(uri)
    found: list[MlflowRun] = []
    with mlflow_errors(uri, "read runs"):
        client = mlflow_client(uri)
        experiments = client.search_experiments()
        known = next((e for e in experiments if experiment in (e.name, e.experiment_id)), None)
        if known is None:
            others = ", ".join(repr(e.name) for e in experiments) or "none"
            raise TrackingError(f"{redact_value(uri)} has no experiment {experiment!r}; there are {others}")
        page_token = None
        while True:
            page = client.search_runs([known.experiment_id], order_by=["start_time ASC"], page_token=page_token)
            found += [_mlflow_run(run) for run in page]
            page_token = page.token
            if not page_token:
                break
    missing = sorted(set(names) - {run.name for run in found} - {run.run_id for run in found})
    if missing:
        there = ", ".join(sorted({run.name for run in found})) or "none"
        raise TrackingError(f"experiment {experiment!r} has no run {missing[0]!r}; there are {there}")
    if names:
        found = [run for name in dict.fromkeys(names) for run in found if name in (run.name, run.run_id)]
    wanted = dict(tags or {})
    return [run for run in found if wanted.items() <= run.tags.items()]


def _mlflow_run(run: Run) -> MlflowRun:
    return MlflowRun(
        name=run.info.run_name or run.info.run_id,
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )


def download_reports(uri: str, run_id: str, folder: Path) -> bool:
    """Download `report.json` and `per_query.parquet` of all benchmarks of a run to `folder/evaluation/<benchmark>/`.

    Returns:
        True if the run has any.

    Raises:
        TrackingError: MLflow cannot be read.
    """
    with mlflow_errors(uri, "read reports"):
        client = mlflow_client(uri)
        benchmarks = [entry.path for entry in client.list_artifacts(run_id, "evaluation") if entry.is_dir]
        for path in benchmarks:
            (folder / path).mkdir(parents=True, exist_ok=True)
            for file in ("report.json", "per_query.parquet"):
                client.download_artifacts(run_id, f"{path}/{file}", str(folder))
    return bool(benchmarks)
