"""A whole run: corpora to store to model to measured model, tracked from its first step."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.training.driver import resources_per_worker, train
from hbt_ray.config import RunConfig, dump_config, with_absolute_paths
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.data.prepare import describe_store, store_tokenizer
from hbt_ray.data.token_store import StoreManifest, read_manifest
from hbt_ray.errors import TrackingError
from hbt_ray.sampling import HybridBatchSampler
from hbt_ray.tracking import RunStatus, Tracker, check_reachable, resolve_uri, ui_command
from hbt_ray.training.checkpoint_export import export_encoder
from hbt_ray.training.run_dir import AnyRun, RunDir, initial_model, open_run, training_sampler, validation_sampler

# Whatever brings sentence-transformers takes seconds to import. The driver needs it when training has ended, or to make
# an encoder from nothing, and the workers should not wait for it until then.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.evaluation.evaluator import EvalReport


@dataclass(frozen=True, slots=True)
class FinishedRun:
    folder: RunDir
    reports: Mapping[str, EvalReport]
    ui_command: str

    @property
    def metrics(self) -> dict[str, float]:
        """Every benchmark's metrics."""
        return {name: value for report in self.reports.values() for name, value in report.metrics.items()}


def run(config: RunConfig, out: str | Path, *, fresh: bool = False) -> FinishedRun:
    """Prepares, trains, evaluates and tracks one run; called again for the same folder, it goes on.

    Raises:
        UserError: something asked for cannot be had. What can be checked is checked before training begins.
    """
    config = with_absolute_paths(config)
    folder = open_run(config, out, fresh=fresh)
    uri = resolve_uri(config.tracking, folder.path)
    check_reachable(uri)
    if config.evaluate.benchmarks:
        from hbt_ray.evaluation.run_evaluation import check_benchmarks

        check_benchmarks(config.evaluate)
    connect()
    resources_per_worker(config.train)
    store = prepare(config, folder.stores)
    manifest = read_manifest(store)
    plan = training_sampler(config, manifest)
    validation_sampler(config, manifest)
    tokenizer = store_tokenizer(store, config)
    folder.begin(config)
    say(describe_store(store, manifest))

    tracker = start_tracker(uri, config, folder)
    with tracked_run(tracker, folder):
        best_effort_tracking(tracker, lambda: _track_inputs(config, store, manifest, plan, tracker))
        reports = _train_and_evaluate(config, store, tokenizer, folder, tracker)
    return FinishedRun(folder, reports, ui_command(uri))


def start_tracker(uri: str, config: AnyRun, folder: RunDir, tags: Mapping[str, Any] | None = None) -> Tracker:
    """The run's tracker; it goes on in the MLflow run that an earlier call began."""
    unsent = folder.path / "unsent_metrics.jsonl"
    return Tracker.start(uri, config.tracking.experiment, config.name, config, folder.tracking_id, unsent, tags)


@contextlib.contextmanager
def tracked_run(tracker: Tracker, folder: RunDir) -> Iterator[None]:
    """What a run does inside is tracked with what it takes of the machine, and its end as what it is."""
    try:
        with tracker.system_metrics(), stopped_by_sigterm():
            yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            say(f"\nstopped; the same command goes on from the newest checkpoint in {folder.checkpoints}")
        status: RunStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        best_effort_tracking(tracker, lambda: tracker.finish(status))
        raise
    best_effort_tracking(tracker, tracker.finish)


def best_effort_tracking(tracker: Tracker, log: Callable[[], Any]) -> None:
    """What has been trained is not lost because MLflow is: a warning, and on with it."""
    try:
        check_reachable(tracker.uri)  # in seconds; the rest would try for minutes
        log()
    except TrackingError as error:
        say(f"not tracked: {error}")


def _track_inputs(
    config: RunConfig, store: Path, manifest: StoreManifest, plan: HybridBatchSampler, tracker: Tracker
) -> None:
    for name, source in manifest.sources.items():
        profile = {"train": source.items(), "validation": source.items("validation"), "languages": source.languages}
        tracker.log_dataset(name, manifest.fingerprint(), str(store), profile, "training")
    tracker.log_text(dump_config(config), "config.yaml")
    shares = plan.realised_mix(0, config.train.steps * config.train.gradient_accumulation)
    rows = [{"of": of, "value": value, "share": share} for of, by in shares.items() for value, share in by.items()]
    tracker.log_table("realised_mix", rows)


def _train_and_evaluate(
    config: RunConfig, store: Path, tokenizer: PreTrainedTokenizerFast, folder: RunDir, tracker: Tracker
) -> dict[str, EvalReport]:
    initial = initial_model(config, tokenizer, folder)
    steps = train(config, store, initial, folder, lambda step, metrics: tracker.log_metrics(metrics, step))
    tracker.log_metrics({"train/steps": steps}, steps)
    export_encoder(config, initial, folder.checkpoints, steps, folder.model)
    reports = {}
    if config.evaluate.benchmarks:
        from hbt_ray.cluster.evaluation.evaluate import evaluate_on_cluster

        for report in evaluate_on_cluster(str(folder.model), config.evaluate, folder.evaluations):
            reports[report.benchmark] = report
            tracker.log_metrics(report.metrics, steps)
            best_effort_tracking(tracker, functools.partial(_track_report, config, report, folder, tracker))
    if config.tracking.log_model:
        best_effort_tracking(tracker, lambda: tracker.log_model(folder.model, step=steps))
    return reports


def _track_report(config: RunConfig, report: EvalReport, folder: RunDir, tracker: Tracker) -> None:
    name = report.benchmark
    places = {benchmark_slug(key): place for key, place in config.evaluate.benchmarks.items()}
    place = places.get(name) or name  # a perturbed one has no files of its own
    tracker.log_dataset(name, report.fingerprint, place, report.counts, "evaluation")
    tracker.log_artifacts(folder.evaluations / name, f"evaluation/{name}")


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """`ray job stop` sends SIGTERM; like Ctrl-C it should end the tracked run as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
