"""A study on the cluster: every method trained and evaluated with every seed, and the report."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from hbt_ray.cluster.evaluation.evaluate import evaluate_here, evaluate_on_cluster
from hbt_ray.cluster.mining import mine_on_cluster
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import plan_concurrency
from hbt_ray.cluster.runtime import configure_task, connect
from hbt_ray.cluster.search.trial import store_key
from hbt_ray.cluster.task_pool import run_tasks
from hbt_ray.cluster.tracked_run import best_effort_tracking, print_status, start_tracker, tracked_run
from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.config import PretrainRunConfig, RunConfig, absolute_path, with_absolute_paths
from hbt_ray.data.manifest import StoreManifest, read_manifest
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.evaluation.compare import read_run_metrics
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import make_folder
from hbt_ray.evaluation.run_evaluation import check_benchmarks
from hbt_ray.models.encoder import default_device
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.sampling.factory import training_sampler, validation_sampler
from hbt_ray.search.candidates import Candidate
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import (
    FINISHED,
    Experiment,
    cells_of,
    dependency_levels,
    folder_name,
    make_benchmark,
    pretraining_config,
    pretraining_folder,
)
from hbt_ray.study.report import REPORT, SUMMARY, TABLE, write_document
from hbt_ray.study.results import Results
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_command
from hbt_ray.training.checkpoint import export_encoder
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.resume import open_run
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.training.task import ContrastiveTask

SETTINGS = "study.yaml"


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """A study's report and results, and the command that shows it in MLflow."""

    page: Path  # the report, one HTML file
    results: Results
    ui_command: str


def study(config: StudyConfig, out: str | Path, command: str) -> FinishedStudy:
    """Train and evaluate every experiment that is not finished, and write the report.

    Called again for the same folder, it resumes. Seeds, methods and measures may be added to a finished study: its
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
    make_folder(folder)
    config = _with_made_benchmarks(config, folder)
    uri = resolve_uri(config.run.tracking, folder)
    check_reachable(uri)
    experiments = cells_of(config, config.run.evaluate.benchmarks)
    check_benchmarks(config.run.evaluate)
    connect()
    (folder / SETTINGS).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    run_dir, tags = run_dir_of(config.run, folder), {"study": config.name}
    tracker = start_tracker(uri, config.run.tracking.experiment, config.name, config.own_settings, run_dir, tags)
    with tracked_run(tracker, "the same command resumes with the unfinished experiments", system_metrics=False):
        runner = StudyRunner(config, folder, experiments, tracker)
        runner.pretrain()
        for level in dependency_levels(experiments):
            runner.run_level(level)
        results = Results(config, folder)
        page = write_document(results, runner.trained_on, command, runner.pretrained_on)
        best_effort_tracking(tracker, lambda: _log_results(results, tracker))
    return FinishedStudy(page, results, ui_command(uri))


def _with_made_benchmarks(config: StudyConfig, folder: Path) -> StudyConfig:
    """Return the study with absolute paths, after making its benchmarks and adding them to those evaluated."""
    run = with_absolute_paths(config.run)
    made_benchmarks = {
        name: made.model_copy(
            update={"corpus": made.corpus.model_copy(update={"path": absolute_path(made.corpus.path)})}
        )
        for name, made in config.made.items()
    }
    benchmarks = dict(run.evaluate.benchmarks)
    for name, made in made_benchmarks.items():
        path = folder / "benchmarks" / folder_name(name)
        make_benchmark(name, made, path)
        benchmarks[name] = str(path)
    evaluate = run.evaluate.model_copy(update={"benchmarks": benchmarks})
    return config.model_copy(update={"run": run.model_copy(update={"evaluate": evaluate}), "made": made_benchmarks})


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """The store and the encoder that an experiment's training starts from."""

    store: Path
    model: str


class StudyRunner:
    """Runs a study's pretrainings and experiments, and logs each experiment when it is finished."""

    def __init__(self, config: StudyConfig, folder: Path, experiments: Sequence[Experiment], tracker: Tracker) -> None:
        self.config = config
        self.folder = folder
        self.tracker = tracker
        self.total = len(experiments)
        self.num_finished = 0
        self.trained_on: dict[str, StoreManifest] = {}  # by the store's folder
        self.pretrained_on: dict[str, StoreManifest] = {}
        self._stores: dict[str, Path] = {}
        self._encoders: dict[tuple[str, int], str] = {}  # (method, seed) -> where its encoder is, or will be

    def run_level(self, experiments: Sequence[Experiment]) -> None:
        """Finish experiments that do not depend on each other, concurrently as far as the cluster holds them."""
        prepared = [self._prepare(experiment) for experiment in experiments]
        unfinished = [(exp, inputs) for exp, inputs in prepared if not exp.is_finished(self.folder)]
        self.num_finished += len(experiments) - len(unfinished)
        if not unfinished:
            return
        # Planned for all experiments, not the unfinished ones: results depend on the threads in their last bits.
        request = plan_concurrency(self.config.run, self.config.concurrent or self.total)
        if self.config.run.train.max_workers > 1:
            for experiment, inputs in unfinished:
                began_s = time.monotonic()
                _run_experiment(experiment, inputs, experiment.folder(self.folder), evaluate_on_cluster)
                self._finish(experiment, time.monotonic() - began_s)
            return
        jobs = [
            (experiment, _experiment_task, (experiment, inputs, experiment.folder(self.folder), request.threads))
            for experiment, inputs in unfinished
        ]
        for experiment, seconds in run_tasks(jobs, request, "an experiment"):
            self._finish(experiment, seconds)

    def pretrain(self) -> None:
        """Pretrain the encoders that methods start from, concurrently as far as the cluster holds them.

        A pretraining that continues from another one runs after it.
        """
        levels: dict[str, int] = {}
        for name, pretraining in self.config.pretraining.items():
            levels[name] = 0 if pretraining.after is None else levels[pretraining.after] + 1
        used = {method.pretrained for method in self.config.methods.values()}
        for level in range(1 + max(levels.values(), default=-1)):
            prepared = [
                self._prepare_pretraining(name, seed)
                for name in self.config.pretraining
                if levels[name] == level and used & {name, *_continuations(self.config, name)}
                for seed in self.config.seeds
            ]
            unfinished = [(config, store) for config, store in prepared if not _is_pretrained(self.folder, config)]
            request = plan_concurrency(self.config.run, self.config.concurrent or self.total)
            jobs = []
            for config, store in unfinished:
                run_dir = open_run(config, pretraining_folder(self.folder, config).path)
                arguments = (config, store, run_dir, request.threads)
                jobs.append((f"{config.name}, seed {config.seed}", _pretraining_task, arguments))
            for done, (label, seconds) in enumerate(run_tasks(jobs, request, "pretraining"), start=1):
                print_status(f"[{done}/{len(unfinished)}] pretraining {label} ({seconds:.0f} s)")

    def _prepare_pretraining(self, name: str, seed: int) -> tuple[PretrainRunConfig, Path]:
        """Return a pretraining's complete configuration, and its store."""
        config = pretraining_config(self.config, name, seed)
        after = self.config.pretraining[name].after
        if after is not None:
            model = _pretrained_model(self.folder, pretraining_config(self.config, after, seed))
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})})
        store = prepare(config.prepare_inputs, self.folder / "stores")
        self.pretrained_on[str(store)] = read_manifest(store)
        return config, store

    def _prepare(self, experiment: Experiment) -> tuple[Experiment, ExperimentInputs]:
        """Resolve an experiment's inputs on the driver, because making them may use the whole cluster.

        Returns:
            The experiment with its complete configuration, and what its training starts from.
        """
        experiment = replace(experiment, config=self._with_other_methods_results(experiment))
        config, folder = experiment.config, experiment.folder(self.folder)
        open_run(config, folder.path)
        key = store_key(config)
        if key not in self._stores:
            self._stores[key] = prepare(config.prepare_inputs, self.folder / "stores")
        store = self._stores[key]
        manifest = read_manifest(store)
        self.trained_on[str(store)] = manifest
        training_sampler(config, manifest)
        validation_sampler(config, manifest)
        model = str(folder.initial_model)
        if not folder.initial_model.exists():
            model = prepare_initial_model(config, store_tokenizer(store, config.prepare_inputs), folder)
        inputs = ExperimentInputs(store, model)
        self._encoders[experiment.name, experiment.seed] = _encoder_of(experiment, inputs, folder)
        return experiment, inputs

    def _with_other_methods_results(self, experiment: Experiment) -> RunConfig:
        """Return the experiment's configuration with the encoder, negatives or teacher that another method makes."""
        config, method, seed = experiment.config, experiment.method, experiment.seed
        if method.pretrained:
            model = str(_pretrained_model(self.folder, pretraining_config(self.config, method.pretrained, seed)))
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": model})})
        if method.mined_with:
            out = self.folder / "mined" / folder_name(experiment.name) / f"seed-{seed}"
            mined = mine_on_cluster(config, self._encoders[method.mined_with, seed], out)
            config = config.model_copy(update={"corpora": mined.corpora})
        if method.taught_by:
            teacher = self._encoders[method.taught_by, seed]
            config = Candidate({"loss.distillation.teacher": teacher}).config(config, seed)
        return config

    def _finish(self, experiment: Experiment, seconds: float) -> None:
        folder = experiment.folder(self.folder)
        folder.checkpoints.delete()
        folder.checkpoint_metrics.delete()
        experiment.finish(self.folder)
        self.num_finished += 1
        metrics = read_run_metrics(folder.path)
        shown = [f"{display_name(m)} {metrics[m]:.4g}" for m in self.config.measures if m in metrics]
        progress = f"[{self.num_finished}/{self.total}]"
        print_status(f"{progress} {experiment.label}: {', '.join(shown[:3])} ({seconds:.0f} s)")
        best_effort_tracking(self.tracker, functools.partial(self._log_experiment, experiment, metrics))

    def _log_experiment(self, experiment: Experiment, metrics: dict[str, float]) -> None:
        parent, config = self.tracker, experiment.config
        tags = {"mlflow.parentRunId": parent.run_id, "study": self.config.name, "method": experiment.name}
        folder = experiment.folder(self.folder)
        tracker = start_tracker(parent.uri, parent.experiment, experiment.label, config, folder, tags)
        tracker.log_metrics(metrics, config.train.steps if experiment.method.trained else 0)
        tracker.finish()


def _continuations(config: StudyConfig, name: str) -> set[str]:
    """Return the pretrainings that continue from `name`, directly or through others."""
    direct = {other for other, pretraining in config.pretraining.items() if pretraining.after == name}
    return direct.union(*(_continuations(config, other) for other in direct))


def _pretrained_model(study: Path, config: PretrainRunConfig) -> Path:
    return pretraining_folder(study, config).model


def _is_pretrained(study: Path, config: PretrainRunConfig) -> bool:
    return (pretraining_folder(study, config).path / FINISHED).exists()


def _pretraining_task(config: PretrainRunConfig, store: Path, folder: RunDir, threads: int) -> None:
    """Pretrain in this process, from the newest checkpoint to the finished encoder."""
    configure_task(threads)
    pretrain_locally(config, store, folder, default_device())
    folder.checkpoints.delete()
    (folder.path / FINISHED).touch()


def _experiment_task(experiment: Experiment, inputs: ExperimentInputs, folder: RunDir, threads: int) -> None:
    """Run an experiment in this process."""
    configure_task(threads)
    _run_experiment(experiment, inputs, folder, functools.partial(evaluate_here, threads=threads))


def _run_experiment(
    experiment: Experiment, inputs: ExperimentInputs, folder: RunDir, evaluate: Callable[..., object]
) -> None:
    """Train an experiment from its newest checkpoint, if its method is trained, and write its reports.

    Args:
        experiment: with its complete configuration.
        inputs: the store and the encoder to start from.
        folder: of the experiment's run.
        evaluate: `evaluate_on_cluster` or `evaluate_here`: takes a model, settings and the reports' folder.
    """
    config = experiment.config
    if experiment.method.trained and not folder.model.exists():
        folder.begin(config)
        last = train_run(ContrastiveTask(config, inputs.model, benchmark_metrics), inputs.store, folder)
        export_encoder(config, inputs.model, folder.checkpoints, last, folder.model)
    evaluate(_encoder_of(experiment, inputs, folder), config.evaluate, folder.evaluations)


def _encoder_of(experiment: Experiment, inputs: ExperimentInputs, folder: RunDir) -> str:
    """Return the encoder that is evaluated: the trained one, or the initial one of a method that trains nothing."""
    return str(folder.model) if experiment.method.trained else inputs.model


def _log_results(results: Results, tracker: Tracker) -> None:
    config, folder = results.config, results.folder
    reference = {measure: results.estimate(config.reference, measure).mean for measure in config.measures}
    tracker.log_metrics(reference, config.run.train.steps)
    for file in (REPORT, "report.html", TABLE, SUMMARY, SETTINGS):
        tracker.log_artifacts(folder / file)
    tracker.log_artifacts(folder / "figures", "figures")
    rows = [
        {"method": m, **{measure: results.estimate(m, measure).mean for measure in config.measures}}
        for m in results.methods
    ]
    tracker.log_table("results", rows)
