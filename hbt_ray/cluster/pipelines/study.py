"""A whole study: every method trained and evaluated with every seed, and the report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.cluster.pipelines.study_runner import StudyRunner
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.tracked_run import best_effort_tracking, start_tracker, tracked_run
from hbt_ray.config import dump_config, replace_in
from hbt_ray.evaluation.report import make_folder
from hbt_ray.study.checks import check_study
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import dependency_levels
from hbt_ray.study.finished_study import mark_study
from hbt_ray.study.plan import PLAN, keep_plan
from hbt_ray.study.report import FIGURES, MARKDOWN, PAGE, SUMMARY, TABLE, write_study_report
from hbt_ray.study.report_sections import StudyInputs, results_section
from hbt_ray.study.results import StudyResults
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_guide
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.progress import stage

logger = logging.getLogger(__name__)

_SETTINGS = "study.yaml"


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """A study's report and results, and the command that shows it in MLflow."""

    page: Path  # the report, one HTML file
    results: StudyResults
    ui_command: str


def study(config: StudyConfig, out: str | Path, command: str) -> FinishedStudy:
    """Train and evaluate every experiment that is not finished, and write the report.

    Called again for the same folder, it resumes. Seeds, methods and metrics may be added to a finished study: its
    finished experiments are not repeated.

    Leaves `report.html`, `report.md`, `figures/`, `table.csv` and `summary.json` in the folder, `cells/` with a run's
    folder for each method and seed, and `benchmarks/` with the files that were made.

    Args:
        config: of the study.
        out: the study's folder.
        command: that repeats the study, for the report.

    Raises:
        HbtError: a setting, file or resource is missing or wrong. All that can be checked before training is.
    """
    folder = Path(out).expanduser().resolve()
    with lock_folder(folder):
        return _study(config, folder, command)


def _study(config: StudyConfig, folder: Path, command: str) -> FinishedStudy:
    make_folder(folder)
    uri = resolve_uri(config.run.tracking, folder)
    check_reachable(uri)
    checked = check_study(config, folder)
    for name in checked.absent_benchmarks:
        logger.warning("the benchmark %s is not there and is left out", name)
    # As it was given, without the benchmarks that were made and with those that were left out.
    given = replace_in(checked.config, "run.evaluate.benchmarks", config.run.evaluate.benchmarks)
    given = replace_in(replace_in(given, "measures", config.measures), "claims", config.claims)
    keep_plan(config, folder)
    as_given, config = config, checked.config
    connect()
    if not (folder / _SETTINGS).exists():  # those of the results are kept, because other settings may be refused
        atomic_write_text(folder / _SETTINGS, dump_config(given))
    run_dir, tags = run_dir_of(config.run, folder), {"study": config.name}
    tracker = start_tracker(uri, config.run.tracking.experiment, config.name, config.without_run, run_dir, tags)
    with tracked_run(tracker, "the same command resumes with the unfinished experiments", system_metrics=False):
        runner = StudyRunner(config, folder, len(checked.experiments), tracker)
        runner.pretrain()
        for level in dependency_levels(config, checked.experiments):
            runner.run_level(level)
        keep_plan(as_given, folder, has_ended=True)
        atomic_write_text(folder / _SETTINGS, dump_config(given))
        results = StudyResults(config, folder)
        inputs = StudyInputs(runner.trained_on, runner.pretrained_on, runner.training_tokens, checked.absent_benchmarks)
        with stage("writing the report"):
            page = write_study_report(results, inputs, command)
        has_all = runner.log_missing()
        is_logged = best_effort_tracking(tracker, lambda: _log_results(results, tracker)) and has_all
    if is_logged:  # else the next call tries it again
        mark_study(as_given, folder, results_section(results).lines)
    return FinishedStudy(page, results, ui_guide(uri, config.run.tracking.experiment))


def _log_results(results: StudyResults, tracker: Tracker) -> None:
    """Log the reference's metrics, every method's means as a table, and the report's files."""
    config, folder = results.config, results.folder
    means = {
        method: {metric: results.estimate(method, metric).mean for metric in config.measures}
        for method in results.methods
    }
    steps = max(results.experiments[config.reference, seed].steps(folder) for seed in config.seeds)
    tracker.log_metrics(means[config.reference], steps)
    for file in (MARKDOWN, PAGE, TABLE, SUMMARY, PLAN, _SETTINGS):
        tracker.log_artifacts(folder / file)
    tracker.log_artifacts(folder / FIGURES, FIGURES)
    tracker.log_table("results", [{"method": method, **metrics} for method, metrics in means.items()])
