"""Track runs, data sets, metrics and models in MLflow. No other package imports MLflow.

For the driver and Ray's controller, never for a training worker. Every call goes through an `MlflowClient` with an
explicit URI, so nothing depends on MLflow's active run of a process. `import hbt_ray.tracking` does not import MLflow.
"""

from hbt_ray.tracking.run_queries import MlflowRun, download_reports, training_runs
from hbt_ray.tracking.server import check_reachable, resolve_uri, ui_command, ui_guide
from hbt_ray.tracking.tracker import RunStatus, Tracker, keep_command, tracked_name

__all__ = [
    "MlflowRun",
    "RunStatus",
    "Tracker",
    "check_reachable",
    "download_reports",
    "keep_command",
    "resolve_uri",
    "tracked_name",
    "training_runs",
    "ui_command",
    "ui_guide",
]
