"""Runs, data sets, metrics and models in MLflow, and only here.

For the driver and for Ray's controller, never for a training worker. Everything goes through `MlflowClient` with
the store's URI, so nothing depends on a process's active run. `import hbt_ray.tracking` does not import MLflow.
"""

from hbt_ray.tracking.redaction import masked
from hbt_ray.tracking.run_queries import TrackedRun, download_reports, training_runs
from hbt_ray.tracking.server import check_reachable, resolve_uri, ui_command
from hbt_ray.tracking.tracker import RunStatus, Tracker, tracked_name

__all__ = [
    "RunStatus",
    "TrackedRun",
    "Tracker",
    "check_reachable",
    "download_reports",
    "masked",
    "resolve_uri",
    "tracked_name",
    "training_runs",
    "ui_command",
]
