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

from hbt_ray.benchmarks import own_name
from hbt_ray.cluster.connect import connect
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.train import resources_per_worker, train
from hbt_ray.config import RunConfig, dump_config, with_absolute_paths
from hbt_ray.errors import TrackingError
from hbt_ray.experiment import AnyRun, RunFolder, initial_model, open_run, training_plan, validation_plan
from hbt_ray.plan import HybridPlan
from hbt_ray.preparation import describe_store, store_tokenizer
from hbt_ray.store import StoreManifest, read_manifest
from hbt_ray.tracking import RunStatus, Tracker, check, resolve_uri, ui_command
from hbt_ray.trained import save_trained

# Whatever brings sentence-transformers takes seconds to import. The driver needs it when training has ended, or to make
# an encoder from nothing, and the workers should not wait for it until then.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.evaluate import EvalReport


@dataclass(frozen=True, slots=True)
class FinishedRun:
    folder: RunFolder
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
    check(uri)
    if config.evaluate.benchmarks:
        from hbt_ray.evaluate_model import check_benchmarks

        check_benchmarks(config.evaluate)
    connect()
    resources_per_worker(config.train)
    store = prepare(config, folder.stores)
    manifest = read_manifest(store)
    plan = training_plan(config, manifest)
    validation_plan(config, manifest)
    tokenizer = store_tokenizer(store, config)
    folder.begin(config)
    say(describe_store(store, manifest))

    tracker = start_tracker(uri, config, folder)
    with followed(tracker, folder):
        if_mlflow_answers(tracker, lambda: _track_inputs(config, store, manifest, plan, tracker))
        reports = _train_and_evaluate(config, store, tokenizer, folder, tracker)
    return FinishedRun(folder, reports, ui_command(uri))


def start_tracker(uri: str, config: AnyRun, folder: RunFolder, tags: Mapping[str, Any] | None = None) -> Tracker:
    """The run's tracker; it goes on in the MLflow run that an earlier call began."""
    unsent = folder.path / "unsent_metrics.jsonl"
    return Tracker.start(uri, config.tracking.experiment, config.name, config, folder.tracking_id, unsent, tags)


@contextlib.contextmanager
def followed(tracker: Tracker, folder: RunFolder) -> Iterator[None]:
    """What a run does inside is tracked with what it takes of the machine, and its end as what it is."""
    try:
        with tracker.system_metrics(), stopped_by_sigterm():
            yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            say(f"\nstopped; the same command goes on from the newest checkpoint in {folder.checkpoints}")
        status: RunStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        if_mlflow_answers(tracker, lambda: tracker.finish(status))
        raise
    if_mlflow_answers(tracker, tracker.finish)


def if_mlflow_answers(tracker: Tracker, log: Callable[[], Any]) -> None:
    """What has been trained is not lost because MLflow is: a warning, and on with it."""
    try:
        check(tracker.uri)  # in seconds; the rest would try for minutes
        log()
    except TrackingError as error:
        say(f"not tracked: {error}")


def _track_inputs(config: RunConfig, store: Path, manifest: StoreManifest, plan: HybridPlan, tracker: Tracker) -> None:
    for name, source in manifest.sources.items():
        profile = {"train": source.items(), "validation": source.items("validation"), "languages": source.languages}
        tracker.log_dataset(name, manifest.fingerprint(), str(store), profile, "training")
    tracker.log_text(dump_config(config), "config.yaml")
    shares = plan.realised_mix(0, config.train.steps * config.train.gradient_accumulation)
    rows = [{"of": of, "value": value, "share": share} for of, by in shares.items() for value, share in by.items()]
    tracker.log_table("realised_mix", rows)


def _train_and_evaluate(
    config: RunConfig, store: Path, tokenizer: PreTrainedTokenizerFast, folder: RunFolder, tracker: Tracker
) -> dict[str, EvalReport]:
    initial = initial_model(config, tokenizer, folder)
    steps = train(config, store, initial, folder, lambda step, metrics: tracker.log_metrics(metrics, step))
    tracker.log_metrics({"train/steps": steps}, steps)
    save_trained(config, initial, folder.checkpoints, steps, folder.model)
    reports = {}
    if config.evaluate.benchmarks:
        from hbt_ray.cluster.evaluate import evaluate_on_cluster

        for report in evaluate_on_cluster(str(folder.model), config.evaluate, folder.evaluations):
            reports[report.benchmark] = report
            tracker.log_metrics(report.metrics, steps)
            if_mlflow_answers(tracker, functools.partial(_track_report, config, report, folder, tracker))
    if config.tracking.log_model:
        if_mlflow_answers(tracker, lambda: tracker.log_model(folder.model, step=steps))
    return reports


def _track_report(config: RunConfig, report: EvalReport, folder: RunFolder, tracker: Tracker) -> None:
    name = report.benchmark
    places = {own_name(key): place for key, place in config.evaluate.benchmarks.items()}
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
