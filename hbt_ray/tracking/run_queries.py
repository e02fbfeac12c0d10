"""What the store knows of the runs in an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.errors import TrackingError
from hbt_ray.tracking.redaction import masked
from hbt_ray.tracking.server import check_reachable, client_of, mlflow_errors, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as the store has it: parameters as text, each metric's latest value."""

    name: str
    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str] = field(default_factory=dict)


def training_runs(
    uri: str, experiment: str, names: Sequence[str] = (), tags: Mapping[str, str] | None = None
) -> list[TrackedRun]:
    """The runs of an experiment, oldest first: all, or those with these names or ids; of them, those with these tags.

    Args:
        experiment: its name or id.

    Raises:
        TrackingError: the store cannot be reached, has no such experiment, or lacks one of `names`.
    """
    file = sqlite_file(uri)
    if file and not file.exists():
        raise TrackingError(f"there is no MLflow store {file}; set tracking.uri to the one the runs were tracked in")
    check_reachable(uri)
    found: list[TrackedRun] = []
    with mlflow_errors(uri, "read runs"):
        client = client_of(uri)
        experiments = client.search_experiments()
        known = next((e for e in experiments if experiment in (e.name, e.experiment_id)), None)
        if known is None:
            others = ", ".join(repr(e.name) for e in experiments) or "none"
            raise TrackingError(f"{masked(uri)} has no experiment {experiment!r}; there are {others}")
        page_token = None
        while True:
            page = client.search_runs([known.experiment_id], order_by=["start_time ASC"], page_token=page_token)
            found += [_tracked_run(run) for run in page]
            page_token = page.token
            if not page_token:
                break
    missing = sorted(set(names) - {run.name for run in found} - {run.run_id for run in found})
    if missing:
        there = ", ".join(sorted({run.name for run in found})) or "none"
        raise TrackingError(f"experiment {experiment!r} has no run {missing[0]!r}; there are {there}")
    wanted = dict(tags or {})
    return [
        run
        for run in found
        if (not names or run.name in names or run.run_id in names) and wanted.items() <= run.tags.items()
    ]


def _tracked_run(run: Run) -> TrackedRun:
    return TrackedRun(
        name=run.info.run_name or run.info.run_id,
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )


def download_reports(uri: str, run_id: str, folder: Path) -> bool:
    """Fetches what a run tells of every benchmark, its metrics and each query's, as `evaluation/<benchmark>/`.

    Returns:
        Whether it has any.

    Raises:
        TrackingError: the store cannot be read.
    """
    with mlflow_errors(uri, "read reports"):
        client = client_of(uri)
        found = [place.path for place in client.list_artifacts(run_id, "evaluation") if place.is_dir]
        for place in found:
            (folder / place).mkdir(parents=True, exist_ok=True)
            for file in ("report.json", "per_query.parquet"):
                client.download_artifacts(run_id, f"{place}/{file}", str(folder))
    return bool(found)
