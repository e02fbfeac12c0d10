"""A run's life in MLflow, the same for training, pretraining, search and study."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hbt_ray.config import ConfigSection, dump_config
from hbt_ray.data.manifest import read_manifest
from hbt_ray.errors import StorageError, TrackingError
from hbt_ray.tracking import RunStatus, Tracker, check_reachable
from hbt_ray.training.previous_run import drop_replaced
from hbt_ray.training.run_dir import AnyRun, RunDir
from hbt_ray.training.task import OnMetrics
from hbt_ray.utils.interruption import interrupt_on_sigterm, say_when_stopped
from hbt_ray.utils.progress import print_line

logger = logging.getLogger(__name__)


def start_tracker(
    uri: str,
    experiment: str,
    name: str,
    config: ConfigSection,
    folder: RunDir,
    tags: Mapping[str, object] | None = None,
) -> Tracker:
    """Create the run's MLflow run, or resume the one that an earlier call created for the same folder."""
    unsent_file = folder.path / "unsent_metrics.jsonl"
    return Tracker.start(uri, experiment, name, config, folder.tracking_id, unsent_file, tags)


@contextlib.contextmanager
def tracked_run(tracker: Tracker, resume_hint: str, *, system_metrics: bool = True) -> Iterator[None]:
    """Set the MLflow run's status when the block ends: FINISHED, FAILED, or KILLED after Ctrl-C or SIGTERM.

    Args:
        tracker: of the run.
        resume_hint: printed after Ctrl-C: what the same command will do.
        system_metrics: log this machine's use of CPU, memory, disk, network and GPU while the block runs.
    """
    monitor = tracker.system_metrics() if system_metrics else contextlib.nullcontext()
    try:
        with say_when_stopped(resume_hint), monitor, interrupt_on_sigterm():
            yield
    except BaseException as error:
        status: RunStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        best_effort_tracking(tracker, lambda: tracker.finish(status))
        raise
    best_effort_tracking(tracker, tracker.finish)


def best_effort_tracking(tracker: Tracker, log: Callable[[], object]) -> bool:
    """Call `log`; if MLflow fails, print a warning and return False, so that its outage fails no run."""
    try:
        check_reachable(tracker.uri)  # takes seconds; MLflow's client would retry for minutes
        log()
    except TrackingError as error:
        print_line(f"not tracked: {error}")
        return False
    return True


def log_report_metrics(tracker: Tracker, metrics: Mapping[str, float], step: int) -> None:
    """Log the tracked metrics of a run's reports one by one, all as the table `metrics`, and describe the run."""
    from hbt_ray.evaluation.metrics import headline_metrics, metric_rows, tracked_metrics

    tracker.log_metrics(tracked_metrics(metrics), step)
    best_effort_tracking(tracker, lambda: tracker.log_table("metrics", metric_rows(metrics)))
    best_effort_tracking(tracker, lambda: tracker.present_results(headline_metrics(metrics)))


def metrics_logger(tracker: Tracker, folder: RunDir) -> OnMetrics:
    """Return a function that logs metrics, and deletes the run that `folder` held before once it is replaced."""
    is_dropped = False

    def log(step: int, metrics: dict[str, float]) -> None:
        nonlocal is_dropped
        tracker.log_metrics(metrics, step)
        try:
            is_dropped = is_dropped or drop_replaced(folder)
        except StorageError as error:
            logger.warning("whether the earlier run can be deleted is not known yet (%s)", error)

    return log


def log_inputs(tracker: Tracker, config: AnyRun, store: Path, context: str) -> None:
    """Log the store's sources as data sets of a context ("training"), and the configuration as `config.yaml`."""
    manifest = read_manifest(store)
    for name, source in manifest.sources.items():
        profile = {"train": source.items(), "validation": source.items("validation"), "languages": source.languages}
        tracker.log_dataset(name, manifest.fingerprint(), str(store), profile, context)
    tracker.log_text(dump_config(config), "config.yaml")
