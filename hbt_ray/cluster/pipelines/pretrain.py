"""A whole pretraining: corpora to store to pretrained encoder, tracked from its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.pipelines.train import best_effort_tracking, say, start_tracker, tracked_run
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.runtime import configure_logging, connect
from hbt_ray.cluster.training.driver import beside, resources_per_worker, run_training
from hbt_ray.config import PretrainRunConfig, dump_config, with_absolute_paths
from hbt_ray.data.prepare import describe_store, store_tokenizer
from hbt_ray.data.token_store import TokenStore, read_manifest
from hbt_ray.pretraining.task import PretrainingTask, checked_job, pretraining_job
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_command
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.run_dir import RunDir, open_run


@dataclass(frozen=True, slots=True)
class FinishedPretraining:
    folder: RunDir
    held_out: Mapping[str, Mapping[str, float]]  # language -> "before", "after"
    ui_command: str


def pretrain(config: PretrainRunConfig, out: str | Path, *, fresh: bool = False) -> FinishedPretraining:
    """Prepares, pretrains, measures and tracks one run; called again for the same folder, it goes on.

    Raises:
        UserError: something asked for cannot be had. What can be checked is checked before training begins.
    """
    config = with_absolute_paths(config)
    folder = open_run(config, out, fresh=fresh)
    uri = resolve_uri(config.tracking, folder.path)
    check_reachable(uri)
    connect()
    resources_per_worker(config.pretrain)
    store = prepare(config.preparing, folder.stores, whole_texts=True)
    manifest = read_manifest(store)
    checked_job(config, store_tokenizer(store, config.preparing), manifest)
    folder.begin(config)
    say(describe_store(store, manifest))
    tags = {"objective": config.pretrain.objective, "seed": config.seed}
    tracker = start_tracker(uri, config, folder, tags)
    with tracked_run(tracker, folder):
        job = pretraining_job(config, store, folder)
        best_effort_tracking(tracker, lambda: _track_inputs(job, store, tracker))
        held_out = _pretrain_and_measure(job, store, folder, tracker)
    return FinishedPretraining(folder, held_out, ui_command(uri))


def _track_inputs(job: PretrainingTask, store: Path, tracker: Tracker) -> None:
    manifest = read_manifest(store)
    for name, source in manifest.sources.items():
        profile = {"train": source.items(), "validation": source.items("validation"), "languages": source.languages}
        tracker.log_dataset(name, manifest.fingerprint(), str(store), profile, "pretraining")
    tracker.log_text(dump_config(job.config), "config.yaml")
    plan = job.plan(manifest)
    rows = [
        {"language": stream.name, "tokens": stream.tokens, "share": share}
        for stream, share in zip(plan.streams, plan.shares.tolist(), strict=True)
    ]
    tracker.log_table("languages", rows)


def _pretrain_and_measure(
    job: PretrainingTask, store: Path, folder: RunDir, tracker: Tracker
) -> dict[str, dict[str, float]]:
    measured_before = _measuring(job, store, folder, 0)  # while the workers start
    last = run_training(job, store, folder, lambda step, metrics: tracker.log_metrics(metrics, step))
    measured_after = _measuring(job, store, folder, last)
    from hbt_ray.pretraining.local_runner import save_pretrained
    from hbt_ray.pretraining.perplexity import write_before_and_after
    from hbt_ray.training.checkpoint import CheckpointManager

    stepper = job.stepper("cpu")
    CheckpointManager(folder.checkpoints).load_weights(last, stepper.kept)
    save_pretrained(stepper, folder)
    before, after = measured_before(), measured_after()
    tracker.log_metrics(before, 0)
    tracker.log_metrics(after | {"train/steps": last}, last)
    held_out = write_before_and_after(folder.path, before, after)
    best_effort_tracking(tracker, lambda: _track_outcome(job, folder, tracker, last))
    return held_out


def _track_outcome(job: PretrainingTask, folder: RunDir, tracker: Tracker, last: int) -> None:
    for name in ("perplexity.json", "held_out_loss.json"):
        if (folder.path / name).exists():
            tracker.log_artifacts(folder.path / name)
    if job.config.tracking.log_model:
        tracker.log_model(folder.model, step=last)


def _measuring(job: PretrainingTask, store: Path, folder: RunDir, step: int) -> Callable[[], dict[str, float]]:
    """Begins to measure a step's checkpoint in a task, where that was not done before; its metrics when called."""
    known = dict(load_checkpoint_metrics(folder.measured))
    if step in known:
        return lambda: known[step]
    begun = ray.remote(_measure).options(**beside(job.train)).remote(job, store, folder, step)

    def measured() -> dict[str, float]:
        with unwrap_ray_errors("measuring"):
            metrics: dict[str, float] = ray.get(begun)
        save_checkpoint_metrics(folder.measured, step, metrics)
        return metrics

    return measured


def _measure(job: PretrainingTask, store: Path, folder: RunDir, step: int) -> dict[str, float]:
    from hbt_ray.models.encoder import default_device

    configure_logging()
    return job.measure(TokenStore.open(store), folder.checkpoints, step, default_device())


def held_out_table(held_out: Mapping[str, Mapping[str, float]]) -> Any:
    """A table of what was measured before and after, for a terminal."""
    from rich.table import Table

    table = Table("language", *(heading for heading in ("before", "after")), title="held-out text")
    for language, values in held_out.items():
        table.add_row(language, f"{values['before']:,.1f}", f"{values['after']:,.1f}")
    return table
