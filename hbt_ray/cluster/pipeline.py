"""A whole run: corpora to store to model to measured model, tracked from its first step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.benchmarks import load_benchmark
from hbt_ray.checkpoint import load_weights
from hbt_ray.cluster.connect import connect
from hbt_ray.cluster.evaluate import evaluate_on_cluster
from hbt_ray.cluster.prepare import prepare, store_tokenizer
from hbt_ray.cluster.train import check_workers, train
from hbt_ray.config import RunConfig, dump_config
from hbt_ray.evaluate import EvalReport, check_benchmark
from hbt_ray.experiment import RunFolder, open_run
from hbt_ray.model import load_encoder, save_encoder, small_encoder
from hbt_ray.preparation import describe_store
from hbt_ray.store import StoreManifest, read_manifest
from hbt_ray.tracking import Tracker, check, resolve_uri, ui_command


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
        UserError: something asked for cannot be had; nothing has been trained then.
    """
    folder = open_run(config, out, fresh=fresh)
    uri = resolve_uri(config.tracking, folder.path)
    # What can be found wrong is found before minutes of preparing and training.
    check(uri)
    for name, place in config.evaluate.benchmarks.items():
        check_benchmark(load_benchmark(name, place))
    connect()
    check_workers(config)
    store = prepare(config, folder.stores)
    manifest = read_manifest(store)
    _say(describe_store(store, manifest))
    tracker = Tracker.start(uri, config.tracking.experiment, config.name, config, folder.tracking_id)
    try:
        with tracker.system_metrics():
            reports = _train_and_evaluate(config, store, manifest, folder, tracker)
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish()
    return FinishedRun(folder, reports, ui_command(uri))


def _train_and_evaluate(
    config: RunConfig, store: Path, manifest: StoreManifest, folder: RunFolder, tracker: Tracker
) -> dict[str, EvalReport]:
    for name, source in manifest.sources.items():
        profile = {split: source.items(split) for split in source.shards} | {"languages": len(source.languages)}
        tracker.log_dataset(name, manifest.fingerprint(), str(store), profile, "training")
    tracker.log_text(dump_config(config), "config.yaml")
    initial = initial_model(config, store, folder)
    trained = train(config, store, initial, folder, lambda step, metrics: tracker.log_metrics(metrics, step))
    tracker.log_metrics({"train/steps": trained.steps}, trained.steps)
    encoder = load_encoder(config.model, config.text, initial)
    load_weights(trained.checkpoint, encoder)
    save_encoder(encoder, folder.model)
    reports = {}
    if config.evaluate.benchmarks:
        for report in evaluate_on_cluster(str(folder.model), config.evaluate, folder.evaluations):
            name = report.benchmark
            reports[name] = report
            tracker.log_metrics(report.metrics, trained.steps)
            place = config.evaluate.benchmarks[name] or name
            tracker.log_dataset(name, report.fingerprint, place, report.counts, "evaluation")
            tracker.log_artifacts(folder.evaluations / name, f"evaluation/{name}")
    if config.tracking.log_model:
        tracker.log_model(folder.model, step=trained.steps)
    return reports


def initial_model(config: RunConfig, store: Path, folder: RunFolder) -> str:
    """The encoder that training starts from: the configured one, or one made from nothing beside the run."""
    tokenizer = store_tokenizer(store, config)
    if config.model.path is not None:
        return config.model.path
    encoder = small_encoder(config.model, config.text, tokenizer, seed=config.seed)
    save_encoder(encoder, folder.initial_model)
    return str(folder.initial_model)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
