"""A search on the cluster with Ray Tune: trials, what comes of them, and the chosen ones on the test benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from hbt_ray.cluster.evaluation.evaluate import evaluate_on_cluster
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import plan_concurrency
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.cluster.search.trial import FINISHED, model_key, store_key, trial_folder
from hbt_ray.cluster.search.tuner import try_all
from hbt_ray.cluster.tracked_run import best_effort_tracking, start_tracker, tracked_run
from hbt_ray.config import EvaluateConfig, RunConfig, absolute_path, dump_config, with_absolute_paths
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.compare import read_run_metrics
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.run_evaluation import check_benchmarks
from hbt_ray.sampling.factory import training_sampler, validation_sampler
from hbt_ray.search.candidates import Candidate, points_of
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.dev_set import dev_set
from hbt_ray.search.figures import write_figures
from hbt_ray.search.results import Result, SearchResults, Trial, best_config, outcome_of, trials_table, write_outcome
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_command
from hbt_ray.training.checkpoint_export import export_encoder
from hbt_ray.training.run_dir import initial_model, run_dir_of

SETTINGS = "search.yaml"


@dataclass(frozen=True, slots=True)
class FinishedSearch:
    outcome: SearchResults
    trials: tuple[Trial, ...]
    folder: Path
    ui_command: str


def search(config: SearchConfig, out: str | Path) -> FinishedSearch:
    """Tries configurations, chooses, and measures the chosen ones; called again for the same folder, it goes on.

    Leaves `best.yaml`, `trials.parquet`, `summary.json` and figures in the folder, `trials/` with a run's folder for
    each trial, and `chosen/` with the models that were measured on the test benchmarks.

    Raises:
        HbtError: a setting, file or resource is missing or wrong. All that can be checked before a trial is.
    """
    config = _settled(config)
    folder = Path(out).expanduser().resolve()
    points = points_of(config)
    uri = resolve_uri(config.run.tracking, folder)
    check_reachable(uri)
    _check_unchanged(config, folder)
    check_benchmarks(config.run.evaluate)
    check_benchmarks(EvaluateConfig(benchmarks=config.dev.benchmarks))
    connect()
    configurations = len(points) or config.configurations
    room = plan_concurrency(config.run, config.concurrent or configurations * len(config.seeds))
    runs = [point.config(config.run, seed) for point in points or [Candidate({})] for seed in config.seeds]
    stores, models = _made_beforehand(runs, folder)
    passages = len(dev_set(config.dev, stores[store_key(runs[0])], runs[0]).passages)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    tags = {"search": config.run.name, "searched": " ".join(config.space), "algorithm": config.algorithm}
    experiment, run_dir = config.run.tracking.experiment, run_dir_of(config.run, folder)
    parent = start_tracker(uri, experiment, config.run.name, config.settings, run_dir, tags)
    with tracked_run(parent, "the same command resumes with the trials that have not ended", system_metrics=False):
        trials = try_all(
            config, points, folder, room, stores, models, TuneProgressCallback(config, folder, uri, parent.run_id)
        )
        outcome = outcome_of(config, trials, passages)
        outcome = replace(outcome, test=_measure_chosen(config, outcome, trials, folder, models))
        write_outcome(config, outcome, trials, folder)
        figures = write_figures(config, outcome, trials, folder)
        best_effort_tracking(parent, lambda: _track(config, outcome, trials, figures, folder, parent))
    return FinishedSearch(outcome, tuple(trials), folder, ui_command(uri))


def _settled(config: SearchConfig) -> SearchConfig:
    """The same search from wherever it is carried out; what it chooses by is not trained on."""
    run = with_absolute_paths(config.run)
    asked = {name: absolute_path(place) for name, place in config.dev.benchmarks.items()}
    kept_out = run.prepare.evaluation_sets
    twice = next((name for name, place in asked.items() if kept_out.get(name, place) != place), None)
    if twice is not None:
        raise ConfigError(
            f"{twice} is the dev set and another evaluation set; leave one out of prepare.evaluation_sets"
        )
    prepare = run.prepare.model_copy(update={"evaluation_sets": {**kept_out, **asked}})
    return config.model_copy(
        update={
            "run": run.model_copy(update={"prepare": prepare}),
            "dev": config.dev.model_copy(update={"benchmarks": asked}),
        }
    )


def _check_unchanged(config: SearchConfig, folder: Path) -> None:
    """Raises ConfigError when the folder holds another search."""
    file = folder / SETTINGS
    if not file.exists():
        return
    before, now = yaml.safe_load(file.read_text()), config.model_dump(mode="json")
    for kept in (before, now):
        kept.get("run", {}).pop("tracking", None)
        for timeout in ("step_timeout_s", "collective_timeout_s"):  # a search from before they existed has neither
            kept.get("run", {}).get("train", {}).pop(timeout, None)
        kept.pop("concurrent", None)
    changed = next((key for key in now if before.get(key) != now[key]), None)
    if changed is not None:
        raise ConfigError(f"{folder} holds a search with another {changed}; write another --out, or delete it")


def _made_beforehand(runs: Sequence[RunConfig], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """A store for each way to prepare, and an encoder for each way to begin."""
    stores: dict[str, str] = {}
    models: dict[str, str] = {}
    for run in runs:
        key = store_key(run)
        if key not in stores:
            stores[key] = str(prepare(run.prepare_inputs, run_dir_of(run, folder).stores))
        store = Path(stores[key])
        manifest = read_manifest(store)
        training_sampler(run, manifest)
        validation_sampler(run, manifest)
        if model_key(run) not in models:
            begun = run_dir_of(run, folder / "initial" / f"{len(models)}")
            models[model_key(run)] = initial_model(run, store_tokenizer(store, run.prepare_inputs), begun)
    return stores, models


def _measure_chosen(
    config: SearchConfig, outcome: SearchResults, trials: Sequence[Trial], folder: Path, models: Mapping[str, str]
) -> dict[str, dict[str, list[float]]]:
    """The chosen configurations on the run's benchmarks: configuration -> metric -> values by seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in outcome.chosen:
        for trial in _trials_of(result, trials):
            place = chosen_folder(folder, trial)
            if not (place / FINISHED).exists():
                _save_model(config, trial, folder, models, place)
                if config.run.evaluate.benchmarks:
                    evaluate_on_cluster(str(place / "model"), config.run.evaluate, place / "evaluation")
                (place / FINISHED).touch()
            measured = read_run_metrics(place) if config.run.evaluate.benchmarks else {}
            for name, value in measured.items():
                found.setdefault(result.name, {}).setdefault(name, []).append(value)
    return found


def _trials_of(result: Result, trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials of a configuration, one for each seed."""
    own = [t for t in trials if t.state == "finished" and result.name in (t.name, t.point.name)]
    return sorted({trial.seed: trial for trial in reversed(own)}.values(), key=lambda trial: trial.seed)


def chosen_folder(folder: Path, trial: Trial) -> Path:
    """Where a chosen trial's model and reports lie, as those of a run do."""
    return folder / "chosen" / trial.name


def _save_model(config: SearchConfig, trial: Trial, folder: Path, models: Mapping[str, str], place: Path) -> None:
    run = trial.point.config(config.run, trial.seed)
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.yaml").write_text(dump_config(run), encoding="utf-8")
    checkpoints = trial_folder(folder, run, trial.name).checkpoints
    export_encoder(run, models[model_key(run)], checkpoints, trial.step, place / "model")


def _track(
    config: SearchConfig,
    outcome: SearchResults,
    trials: Sequence[Trial],
    figures: Sequence[Path],
    folder: Path,
    parent: Tracker,
) -> None:
    best = outcome.best
    first = _trials_of(best, trials)[0]
    last = first.step
    parent.log_metrics({f"{config.dev_name}/{name}": value for name, value in best.mean.items()}, last)
    parent.log_metrics({"search/score": best.score, "search/steps": outcome.steps}, last)
    test = {name: float(np.mean(values)) for name, values in outcome.test.get(best.name, {}).items()}
    parent.log_metrics({name: value for name, value in test.items() if name.count("/") == 2}, last)
    parent.log_params(best_config(config, best, trials))  # as those of the trials, to stand in the same columns
    parent.set_tags({f"best.{key}": value for key, value in best.values.items()})
    for file in (folder / "best.yaml", folder / "trials.parquet", folder / "summary.json"):
        parent.log_artifacts(file)
    for figure in figures:
        parent.log_artifacts(figure, "figures")
    table = trials_table(config, trials)
    objectives = [f"{config.dev_name}/{name}" for name in config.objectives]
    shown = ["trial", *objectives, *config.space, "seed", "state", "step"]  # MLflow compares by the second
    parent.log_table("trials", table.select([name for name in shown if name in table.column_names]).to_pylist())
    if config.run.tracking.log_model:
        logged = parent.log_model(chosen_folder(folder, first) / "model", step=last)
        told = ", ".join(f"{display_name(name)} {value:.4g}" for name, value in best.mean.items())
        description = f"{best.name}, the choice among {len(outcome.results)} configurations; {config.dev_name}: {told}"
        parent.register_model(logged, config.register_as or config.run.name, "best", description)
