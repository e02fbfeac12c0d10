"""Run a search on the cluster: trials with Ray Tune, then the chosen candidates on the test benchmarks."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hbt_ray.cluster.evaluation.evaluate import evaluate_on_cluster, run_on_one_node
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import plan_concurrency
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.search.progress_callback import TuneProgressCallback
from hbt_ray.cluster.search.trial import trial_dir
from hbt_ray.cluster.search.tuner import TUNE, run_trials
from hbt_ray.cluster.tracked_run import best_effort_tracking, start_tracker, tracked_run
from hbt_ray.config import (
    RunConfig,
    absolute_path,
    dump_config,
    expand_environment,
    flatten_settings,
    parse_yaml,
    redacted_settings,
    stored_text,
    with_absolute_paths,
)
from hbt_ray.data.benchmarks import ReadOptions, check_options
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation import validation_benchmark
from hbt_ray.evaluation.compare import read_run_metrics
from hbt_ray.evaluation.metrics import display_name, tracked_metrics
from hbt_ray.evaluation.report import report_errors
from hbt_ray.evaluation.run_evaluation import check_benchmarks, load_benchmarks
from hbt_ray.sampling.factory import training_sampler, validation_sampler
from hbt_ray.search.algorithms import list_candidates
from hbt_ray.search.branching import middle_of
from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.dev_set import check_objectives, dev_set, untrained_metrics
from hbt_ray.search.figures import FILES as FIGURES
from hbt_ray.search.figures import write_figures
from hbt_ray.search.finished_search import mark_search
from hbt_ray.search.page import write_search_page
from hbt_ray.search.results import (
    SUMMARY,
    CandidateResult,
    SearchResults,
    Trial,
    best_config,
    objective_values,
    search_results,
    trial_config,
    trials_table,
    write_results,
)
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_guide
from hbt_ray.training.checkpoint import export_encoder
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.atomic_write import atomic_files, atomic_write_text
from hbt_ray.utils.digests import changed_input, content_digest, is_done, mark_done
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.html_page import PAGE
from hbt_ray.utils.storage import StoragePath

logger = logging.getLogger(__name__)

SETTINGS = "search.yaml"


@dataclass(frozen=True, slots=True)
class FinishedSearch:
    """A search whose files are written."""

    results: SearchResults
    trials: tuple[Trial, ...]
    folder: Path
    ui_command: str


def search(config: SearchConfig, out: str | Path) -> FinishedSearch:
    """Try candidates, choose, and evaluate the chosen ones; called again for the same folder, resume.

    1. Check settings, benchmarks, MLflow and resources.
    2. Prepare the token stores and initial encoders that the candidates need.
    3. Run the trials.
    4. Choose by the dev set, and evaluate the chosen candidates on the test benchmarks.

    Writes `best.yaml`, `trials.parquet`, `summary.json`, `report.html` and figures to the folder; `trials/` with the
    folder of a run for each trial; and `chosen/` with the models that were evaluated on the test benchmarks.

    Raises:
        UserError: a setting, file or resource is missing or wrong. All that can be checked before the trials is.
    """
    folder = Path(out).expanduser().resolve()
    with lock_folder(folder):
        return _search(config, folder)


def _search(as_given: SearchConfig, folder: Path) -> FinishedSearch:
    config = _resolve(as_given)
    candidates = list_candidates(config)
    uri = resolve_uri(config.run.tracking, folder)
    check_reachable(uri)
    _check_unchanged(config, folder)
    test_sets = check_benchmarks(config.run.evaluate)
    dev_sets = {dev.fingerprint() for dev in _read_dev_benchmarks(config)}
    same = next((name for name, fingerprint in test_sets.items() if fingerprint in dev_sets), None)
    if same is not None:
        raise ConfigError(f"{same} is a test benchmark, and must not be chosen by; name another as dev")
    connect()
    num_candidates = len(candidates) or config.configurations
    request = plan_concurrency(config.run, config.concurrent or num_candidates * len(config.seeds))
    checked = candidates or [Candidate(middle_of(config))]  # of a value that no store can serve, before the trials
    runs = [candidate.config(config.run, seed) for candidate in checked for seed in config.seeds]
    stores, models = _prepare_stores_and_models(runs, folder)
    dev = dev_set(config.dev, stores[runs[0].store_key], runs[0])
    check_objectives(config.objectives, dev)
    folder.mkdir(parents=True, exist_ok=True)
    _record_inputs(folder, runs, stores, dev)
    atomic_write_text(folder / SETTINGS, dump_config(config))

    tags = {"search": config.run.name, "searched": " ".join(config.space), "algorithm": config.algorithm}
    experiment, run_dir = config.run.tracking.experiment, run_dir_of(config.run, folder)
    parent = start_tracker(uri, experiment, config.run.name, config.settings, run_dir, tags)
    with tracked_run(parent, "the same command resumes with the trials that have not ended", system_metrics=False):
        progress = TuneProgressCallback(config, folder, uri, parent.run_id)
        trials = run_trials(config, candidates, folder, request, stores, models, progress)
        results = search_results(config, trials, len(dev.passages))
        results = replace(results, test=_evaluate_chosen(config, results, trials, folder, stores, models, test_sets))
        results = replace(results, untrained=_untrained(config, results, trials, stores, models))
        for warning in results.warnings:
            logger.warning("%s", warning)
        with report_errors(folder), atomic_files(folder, last=SUMMARY, replaced=FIGURES) as partial:
            write_results(config, results, trials, partial)
            written = write_figures(config, results, trials, partial)
            write_search_page(
                config,
                results,
                trials,
                written,
                partial,
                passages=len(dev.passages),
                fingerprints={config.dev_name: dev.fingerprint(), **test_sets},
            )
            figures = [folder / file.name for file in written]
        is_logged = best_effort_tracking(parent, lambda: _log_results(config, results, trials, figures, folder, parent))
    if is_logged and all(trial.state != "failed" for trial in trials):  # else the next call tries it again
        mark_search(as_given, folder)
    return FinishedSearch(results, tuple(trials), folder, ui_guide(uri, config.run.tracking.experiment))


def _resolve(config: SearchConfig) -> SearchConfig:
    """Return the search with absolute paths, and with the dev set among the evaluation sets that are not trained on.

    Raises:
        ConfigError: an evaluation set has the dev set's name and another folder.
    """
    run = with_absolute_paths(config.run)
    dev = {name: absolute_path(path) for name, path in config.dev.benchmarks.items()}
    evaluation_sets = run.prepare.evaluation_sets
    twice = next((name for name, path in dev.items() if evaluation_sets.get(name, path) != path), None)
    if twice is not None:
        raise ConfigError(
            f"{twice} is the dev set and another evaluation set; leave one out of prepare.evaluation_sets"
        )
    prepare = run.prepare.model_copy(update={"evaluation_sets": {**evaluation_sets, **dev}})
    return config.model_copy(
        update={
            "run": run.model_copy(update={"prepare": prepare}),
            "dev": config.dev.model_copy(update={"benchmarks": dev}),
        }
    )


def _read_dev_benchmarks(config: SearchConfig) -> list[Benchmark]:
    """Read the benchmark that is named as dev, as those of the run are read.

    Raises:
        CorpusError: it cannot be read, or an option applies neither to it nor to those of the run.
    """
    evaluate, benchmarks = config.run.evaluate, config.dev.benchmarks
    check_options([*benchmarks, *evaluate.benchmarks], ReadOptions(evaluate.with_paragraph, evaluate.split))
    return load_benchmarks(evaluate.model_copy(update={"benchmarks": benchmarks}))


def _check_unchanged(config: SearchConfig, folder: Path) -> None:
    """Raise ConfigError if the folder holds another search; where and how it runs may change."""
    file = folder / SETTINGS
    if not file.exists() and not (folder / TUNE).exists():
        return
    try:
        stored = expand_environment(parse_yaml(file.read_text(encoding="utf-8"), file), keep_missing=True)
        before = SearchConfig.model_validate(stored)  # with the defaults of settings that it has not
    except (OSError, TypeError, ValueError):  # ConfigError, ValidationError and UnicodeDecodeError are ValueErrors
        raise ConfigError(
            f"{file} is missing, damaged or of another version, so its search cannot be resumed; write another --out"
        ) from None
    one, other = (_compared_settings(search) for search in (before, config))
    changed = next((key for key in {**one, **other} if one.get(key) != other.get(key)), None)
    if changed is not None:
        raise ConfigError(f"{folder} holds a search with another {changed}; write another --out, or delete it")


def _compared_settings(config: SearchConfig) -> dict[str, object]:
    """Return what must be equal for a search to be resumed, by dotted keys."""
    settings = redacted_settings(config.model_dump(mode="json"))
    del settings["concurrent"], settings["run"]["tracking"]
    for timeout in ("step_timeout_s", "collective_timeout_s"):
        del settings["run"]["train"][timeout]
    return flatten_settings(settings)


def _record_inputs(folder: Path, runs: Sequence[RunConfig], stores: Mapping[str, str], dev: Benchmark) -> None:
    """Write digests of the contents that the trials read, or compare them with those of the search in the folder.

    Raises:
        ConfigError: the corpora, an encoder, a teacher or the dev set has another content.
    """
    inputs = {f"corpora {n}": read_manifest(store).content_fingerprint() for n, store in enumerate(stores.values())}
    teachers = (run.loss.distillation.teacher for run in runs if run.loss.distillation is not None)
    paths = dict.fromkeys((*(run.model.path for run in runs), *teachers))
    inputs |= {stored_text(path): content_digest(path) for path in paths if path is not None}
    windows = runs[0].evaluate.window_chars
    # Trials of an earlier version have not read a named dev set in windows.
    in_windows = f" in windows of {windows}" if windows and dev.name != validation_benchmark.NAME else ""
    inputs["dev set"] = dev.fingerprint() + in_windows
    file = StoragePath.of(folder / "inputs.json")
    changed = changed_input(file, inputs, has_begun=(folder / SETTINGS).exists())
    if changed is not None:
        raise ConfigError(
            f"{folder} holds a search whose {changed} had another content; write another --out, or delete it"
        )


def _prepare_stores_and_models(runs: Sequence[RunConfig], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Prepare a token store for each `store_key`, and an initial encoder for each `model_key`."""
    stores: dict[str, str] = {}
    models: dict[str, str] = {}
    for run in runs:
        key = run.store_key
        if key not in stores:
            stores[key] = str(prepare(run.prepare_inputs, run_dir_of(run, folder).stores))
        store = Path(stores[key])
        manifest = read_manifest(store)
        # They raise ConfigError if the store cannot serve the run.
        training_sampler(run, manifest)
        validation_sampler(run, manifest)
        if run.model_key not in models:
            initial = run_dir_of(run, folder / "initial" / f"{len(models)}")
            models[run.model_key] = prepare_initial_model(run, store_tokenizer(store, run.prepare_inputs), initial)
    return stores, models


def _untrained(
    config: SearchConfig,
    results: SearchResults,
    trials: Sequence[Trial],
    stores: Mapping[str, str],
    models: Mapping[str, str],
) -> dict[str, float]:
    """Evaluate the encoder that the choice was trained from on the dev set: its objectives."""
    run = _trials_of(results.best, trials)[0].candidate.config(config.run, results.best.seeds[0])
    store, model = stores[run.store_key], models[run.model_key]
    metrics = run_on_one_node(functools.partial(untrained_metrics, run, model, config.dev, store))
    return objective_values(config, metrics)


def _evaluate_chosen(
    config: SearchConfig,
    results: SearchResults,
    trials: Sequence[Trial],
    folder: Path,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    test_sets: Mapping[str, str],
) -> dict[str, dict[str, list[float]]]:
    """Evaluate the chosen candidates on the run's benchmarks: candidate -> metric -> values by seed.

    `test_sets` are the fingerprints of the benchmarks' contents.
    """
    by_candidate: dict[str, dict[str, list[float]]] = {}
    for result in results.chosen:
        for trial in _trials_of(result, trials):
            out = chosen_folder(folder, trial)
            marker = StoragePath.of(out / "finished.json")
            depends_on = {
                "trial": trial.name,
                "step": trial.step,
                "metrics": dict(trial.metrics),
                "evaluate": config.run.evaluate.fingerprint(),
                "benchmarks": dict(test_sets),
            }
            if not is_done(marker, depends_on):
                _export_model(config, trial, folder, stores, models, out)
                if config.run.evaluate.benchmarks:
                    trust_remote_code = config.run.model.trust_remote_code
                    evaluate_on_cluster(
                        str(out / "model"), config.run.evaluate, out / "evaluation", trust_remote_code=trust_remote_code
                    )
                mark_done(marker, depends_on)
            metrics = read_run_metrics(out) if config.run.evaluate.benchmarks else {}
            for name, value in metrics.items():
                by_candidate.setdefault(result.name, {}).setdefault(name, []).append(value)
    return by_candidate


def _trials_of(result: CandidateResult, trials: Sequence[Trial]) -> list[Trial]:
    """Return the first finished trial of each seed of a candidate, by seed."""
    finished = [t for t in trials if t.state == "finished" and result.name in (t.name, t.candidate.name)]
    return sorted({trial.seed: trial for trial in reversed(finished)}.values(), key=lambda trial: trial.seed)


def chosen_folder(folder: Path, trial: Trial) -> Path:
    """Return the folder of a chosen trial's model and reports, with the layout of a run's folder."""
    return folder / "chosen" / trial.name


def _export_model(
    config: SearchConfig,
    trial: Trial,
    folder: Path,
    stores: Mapping[str, str],
    models: Mapping[str, str],
    out: Path,
) -> None:
    run = trial_config(config, trial)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out / "run.yaml", dump_config(run))
    checkpoints = trial_dir(folder, run, trial.name).checkpoints
    export_encoder(run, models[run.model_key], stores[run.store_key], checkpoints, trial.step, out / "model")


def _log_results(
    config: SearchConfig,
    results: SearchResults,
    trials: Sequence[Trial],
    figures: Sequence[Path],
    folder: Path,
    parent: Tracker,
) -> None:
    """Log the best candidate's metrics and settings, all files, a table of the trials, and the best model."""
    best = results.best
    first_seed = _trials_of(best, trials)[0]
    step = first_seed.step
    parent.log_metrics({f"{config.dev_name}/{name}": value for name, value in best.mean.items()}, step)
    parent.log_metrics({"search/score": best.score, "search/steps": results.steps}, step)
    test = {name: float(np.mean(values)) for name, values in results.test.get(best.name, {}).items()}
    parent.log_metrics(tracked_metrics(test), step)
    parent.present_results({config.dev_name: best.mean})
    parent.log_params(best_config(config, best, trials))  # as the trials have them, so that MLflow's columns match
    parent.set_tags({f"best.{key}": value for key, value in best.values.items()})
    for file in (folder / "best.yaml", folder / "trials.parquet", folder / "summary.json", folder / PAGE):
        parent.log_artifacts(file)
    for figure in figures:
        parent.log_artifacts(figure, "figures")
    table = trials_table(config, trials)
    objectives = [f"{config.dev_name}/{name}" for name in config.objectives]
    columns = ["trial", *objectives, *config.space, "seed", "state", "step"]  # MLflow compares by the second one
    parent.log_table("trials", table.select([name for name in columns if name in table.column_names]).to_pylist())
    if config.run.tracking.log_model:
        chosen, model = chosen_folder(folder, first_seed) / "model", config.run.model
        logged = parent.log_model(chosen, config.run.name, step, trust_remote_code=model.trust_remote_code)
        means = ", ".join(f"{display_name(name)} {value:.4g}" for name, value in best.mean.items())
        description = f"{best.name}, the choice among {len(results.ranked)} configurations; {config.dev_name}: {means}"
        parent.register_model(logged, config.register_as or config.run.name, "best", description)
