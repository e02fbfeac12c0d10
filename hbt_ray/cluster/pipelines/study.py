"""A study on the cluster: every method trained and measured with every seed, and the report."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from hbt_ray.cluster.evaluation.evaluate import evaluate_here, evaluate_on_cluster
from hbt_ray.cluster.mining import mine_on_cluster
from hbt_ray.cluster.pipelines.train import best_effort_tracking, say, stopped_by_sigterm
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.room import plan_concurrency, run_tasks
from hbt_ray.cluster.runtime import configure_logging, connect
from hbt_ray.cluster.search.trial import store_key
from hbt_ray.cluster.training.driver import train
from hbt_ray.config import PretrainRunConfig, RunConfig, absolute_path, with_absolute_paths
from hbt_ray.data.prepare import store_tokenizer
from hbt_ray.data.token_store import StoreManifest, read_manifest
from hbt_ray.evaluation.compare import read_run_metrics
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import make_folder
from hbt_ray.evaluation.run_evaluation import check_benchmarks
from hbt_ray.models.encoder import default_device
from hbt_ray.pretraining.local_runner import pretrain_locally
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
from hbt_ray.tracking import RunStatus, Tracker, check_reachable, resolve_uri, ui_command
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_export import export_encoder
from hbt_ray.training.local_runner import ignore_metrics, train_locally
from hbt_ray.training.run_dir import RunDir, initial_model, open_run, run_dir_of, training_sampler, validation_sampler
from hbt_ray.training.task import ContrastiveTask

SETTINGS = "study.yaml"


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    page: Path  # the report, one HTML file
    results: Results
    ui_command: str


def study(config: StudyConfig, out: str | Path, command: str) -> FinishedStudy:
    """Trains and measures what is not there yet, and writes the report; called again for the same folder, it goes on.

    Seeds, methods and measures may be added to a study that was finished: what is there is kept.

    Leaves `report.html`, `report.md`, `figures/`, `table.csv` and `summary.json` in the folder, `cells/` with a run's
    folder for each method and seed, and `benchmarks/` with the files that were made.

    Args:
        command: that repeats the study, for the report.

    Raises:
        UserError: something asked for cannot be had. What can be checked is checked before the first training.
    """
    folder = Path(out).expanduser().resolve()
    make_folder(folder)
    config = _settled(config, folder)
    uri = resolve_uri(config.run.tracking, folder)
    check_reachable(uri)
    cells = cells_of(config, config.run.evaluate.benchmarks)
    check_benchmarks(config.run.evaluate)
    connect()
    (folder / SETTINGS).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    tracker = Tracker.start(
        *(uri, config.run.tracking.experiment, config.name, config.own_settings),
        run_dir_of(config.run, folder).tracking_id,
        folder / "unsent_metrics.jsonl",
        {"study": config.name},
    )
    try:
        with stopped_by_sigterm():
            work = _Work(config, folder, cells, tracker)
            work.pretrain()
            for wave in dependency_levels(cells):
                work.through(wave)
            results = Results(config, folder)
            page = write_document(results, work.trained_on, command, work.pretrained_on)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            say("\nstopped; the same command goes on with what is not finished")
        status: RunStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        best_effort_tracking(tracker, lambda: tracker.finish(status))
        raise
    best_effort_tracking(tracker, lambda: _track(results, tracker))
    return FinishedStudy(page, results, ui_command(uri))


def _settled(config: StudyConfig, folder: Path) -> StudyConfig:
    """The same study from wherever it is carried out, measured on the benchmarks that are made for it as well."""
    run = with_absolute_paths(config.run)
    made = {
        name: own.model_copy(update={"corpus": own.corpus.model_copy(update={"path": absolute_path(own.corpus.path)})})
        for name, own in config.made.items()
    }
    benchmarks = dict(run.evaluate.benchmarks)
    for name, own in made.items():
        place = folder / "benchmarks" / folder_name(name)
        make_benchmark(name, own, place)
        benchmarks[name] = str(place)
    evaluate = run.evaluate.model_copy(update={"benchmarks": benchmarks})
    return config.model_copy(update={"run": run.model_copy(update={"evaluate": evaluate}), "made": made})


class _Work:
    """What is done cell by cell."""

    def __init__(self, config: StudyConfig, folder: Path, cells: Sequence[Experiment], tracker: Tracker) -> None:
        self.config = config
        self.folder = folder
        self.tracker = tracker
        self.total = len(cells)
        self.done = 0
        self.trained_on: dict[str, StoreManifest] = {}  # by the store's folder
        self.pretrained_on: dict[str, StoreManifest] = {}
        self._stores: dict[str, Path] = {}
        self._encoders: dict[tuple[str, int], str] = {}  # of cells that were begun, where they are when these end

    def through(self, cells: Sequence[Experiment]) -> None:
        """Finishes cells that do not need each other, as many at a time as there is room for."""
        begun = [self._begin(cell) for cell in cells]
        left = [(cell, ready) for cell, ready in begun if not cell.is_finished(self.folder)]
        self.done += len(cells) - len(left)
        if not left:
            return
        # Not by how many are left: what a cell comes to depends on its threads, in the last bits.
        room = plan_concurrency(self.config.run, self.config.concurrent or self.total)
        if self.config.run.train.max_workers > 1:
            for cell, ready in left:
                began = time.monotonic()
                folder = cell.folder(self.folder)
                if cell.method.trained:
                    _train_with_workers(cell.config, ready, folder)
                evaluate_on_cluster(_encoder_of(cell, ready, folder), cell.config.evaluate, folder.evaluations)
                self._finish(cell, time.monotonic() - began)
            return
        jobs = [(cell, _work_on, (cell, ready, cell.folder(self.folder), room.threads)) for cell, ready in left]
        for cell, seconds in run_tasks(jobs, room, "a cell"):
            self._finish(cell, seconds)

    def pretrain(self) -> None:
        """Makes what methods start from, as many at a time as there is room for, those that others go on from first."""
        levels: dict[str, int] = {}
        for name, own in self.config.pretraining.items():
            levels[name] = 0 if own.after is None else levels[own.after] + 1
        used = {method.pretrained for method in self.config.methods.values()}
        for level in range(1 + max(levels.values(), default=-1)):
            wave = [
                self._pretraining(name, seed)
                for name in self.config.pretraining
                if levels[name] == level and used & {name, *_going_on_from(self.config, name)}
                for seed in self.config.seeds
            ]
            left = [(own, store) for own, store in wave if not _is_pretrained(self.folder, own)]
            room = plan_concurrency(self.config.run, self.config.concurrent or self.total)
            jobs = []
            for config, store in left:
                place = open_run(config, pretraining_folder(self.folder, config).path)
                jobs.append((f"{config.name}, seed {config.seed}", _pretrain_on, (config, store, place, room.threads)))
            for done, (name, seconds) in enumerate(run_tasks(jobs, room, "pretraining"), start=1):
                say(f"[{done}/{len(left)}] pretraining {name} ({seconds:.0f} s)")

    def _pretraining(self, name: str, seed: int) -> tuple[PretrainRunConfig, Path]:
        """A pretraining whose configuration says all, and its store."""
        config = pretraining_config(self.config, name, seed)
        after = self.config.pretraining[name].after
        if after is not None:
            model = _model_of(self.folder, pretraining_config(self.config, after, seed))
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})})
        store = prepare(config.preparing, self.folder / "stores", whole_texts=True)
        self.pretrained_on[str(store)] = read_manifest(store)
        return config, store

    def _begin(self, cell: Experiment) -> tuple[Experiment, _Ready]:
        """A cell whose configuration says all, and what it starts from: made here, for it may take every node."""
        cell = replace(cell, config=self._with_what_it_needs(cell))
        open_run(cell.config, cell.folder(self.folder).path)
        key = store_key(cell.config)
        if key not in self._stores:
            self._stores[key] = prepare(cell.config, self.folder / "stores")
        store = self._stores[key]
        manifest = read_manifest(store)
        self.trained_on[str(store)] = manifest
        training_sampler(cell.config, manifest)
        validation_sampler(cell.config, manifest)
        folder = cell.folder(self.folder)
        model = str(folder.initial_model)
        if not folder.initial_model.exists():
            model = initial_model(cell.config, store_tokenizer(store, cell.config), folder)
        ready = _Ready(store, model)
        self._encoders[cell.name, cell.seed] = _encoder_of(cell, ready, folder)
        return cell, ready

    def _with_what_it_needs(self, cell: Experiment) -> RunConfig:
        """The cell's run, with what comes of other methods."""
        config, method = cell.config, cell.method
        if method.pretrained:
            model = str(_model_of(self.folder, pretraining_config(self.config, method.pretrained, cell.seed)))
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": model})})
        if method.mined_with:
            model = self._encoders[method.mined_with, cell.seed]
            mined = mine_on_cluster(config, model, self.folder / "mined" / folder_name(cell.name) / f"seed-{cell.seed}")
            config = config.model_copy(update={"corpora": mined.corpora})
        if method.taught_by:
            model = self._encoders[method.taught_by, cell.seed]
            config = Candidate({"loss.distillation.teacher": model}).config(config, cell.seed)
        return config

    def _finish(self, cell: Experiment, seconds: float) -> None:
        folder = cell.folder(self.folder)
        folder.checkpoints.delete()
        folder.measured.delete()
        cell.finish(self.folder)
        self.done += 1
        metrics = read_run_metrics(folder.path)
        told = [f"{display_name(m)} {metrics[m]:.4g}" for m in self.config.measures if m in metrics]
        say(f"[{self.done}/{self.total}] {cell.label}: {', '.join(told[:3])} ({seconds:.0f} s)")
        best_effort_tracking(self.tracker, functools.partial(self._track, cell, metrics))

    def _track(self, cell: Experiment, metrics: dict[str, float]) -> None:
        folder = cell.folder(self.folder)
        tags = {"mlflow.parentRunId": self.tracker.run_id, "study": self.config.name, "method": cell.name}
        own = Tracker.start(
            *(self.tracker.uri, self.tracker.experiment, cell.label, cell.config, folder.tracking_id),
            folder.path / "unsent_metrics.jsonl",
            tags,
        )
        own.log_metrics(metrics, cell.config.train.steps if cell.method.trained else 0)
        own.finish()


def _going_on_from(config: StudyConfig, name: str) -> set[str]:
    """Pretrainings that go on from one, whatever stands between."""
    found = {other for other, own in config.pretraining.items() if own.after == name}
    return found.union(*(_going_on_from(config, other) for other in found))


def _model_of(study: Path, config: PretrainRunConfig) -> Path:
    return pretraining_folder(study, config).model


def _is_pretrained(study: Path, config: PretrainRunConfig) -> bool:
    return (pretraining_folder(study, config).path / FINISHED).exists()


def _pretrain_on(config: PretrainRunConfig, store: Path, folder: RunDir, threads: int) -> None:
    """A pretraining from wherever it was left to its encoder, in this process."""
    configure_logging()
    torch.set_num_threads(threads)
    pretrain_locally(config, store, folder, default_device())
    folder.checkpoints.delete()
    (folder.path / FINISHED).touch()


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a cell's training starts from."""

    store: Path
    model: str


def _work_on(cell: Experiment, ready: _Ready, folder: RunDir, threads: int) -> None:
    """A cell from wherever it was left to its reports, in this process."""
    configure_logging()
    torch.set_num_threads(threads)
    config = cell.config
    if cell.method.trained and not folder.model.exists():
        folder.begin(config)
        job = ContrastiveTask(config, ready.model, benchmark_metrics)
        train_locally(job, ready.store, folder, device=default_device())
        last = CheckpointManager(folder.checkpoints).to_keep(config.train)
        export_encoder(config, ready.model, folder.checkpoints, last, folder.model)
    evaluate_here(_encoder_of(cell, ready, folder), config.evaluate, folder.evaluations, threads)


def _encoder_of(cell: Experiment, ready: _Ready, folder: RunDir) -> str:
    """What comes of a cell: the encoder that was trained, or the one that it starts from."""
    return str(folder.model) if cell.method.trained else ready.model


def _train_with_workers(config: RunConfig, ready: _Ready, folder: RunDir) -> None:
    if folder.model.exists():
        return
    folder.begin(config)
    last = train(config, ready.store, ready.model, folder, ignore_metrics)
    export_encoder(config, ready.model, folder.checkpoints, last, folder.model)


def _track(results: Results, tracker: Tracker) -> None:
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
    tracker.finish()
