"""A whole run: corpora to store to model to evaluated model, tracked from its first step."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import resources_per_worker
from hbt_ray.cluster.runtime import connect
from hbt_ray.cluster.tracked_run import (
    best_effort_tracking,
    log_inputs,
    log_report_metrics,
    metrics_logger,
    start_tracker,
    tracked_run,
)
from hbt_ray.cluster.training.driver import train
from hbt_ray.cluster.training.train_run import train_run
from hbt_ray.config import RunConfig, with_absolute_paths
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.prepare import describe_store
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.store_maker import prepare_here
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.sampling import HybridStepSampler
from hbt_ray.sampling.factory import training_sampler, validation_sampler
from hbt_ray.sampling.order_digest import order_digest
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_guide
from hbt_ray.training.checkpoint import CheckpointManager, export_encoder
from hbt_ray.training.completed_run import mark_completed
from hbt_ray.training.initial_model import leave_to_workers, prepare_initial_model
from hbt_ray.training.previous_run import starting_over
from hbt_ray.training.resume import open_run
from hbt_ray.training.run_dir import RunDir, run_dir_of
from hbt_ray.training.run_inputs import record_inputs
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.utils.digests import changed_input, mark_done
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.progress import print_line
from hbt_ray.utils.start_up import end_of

# Modules that import sentence-transformers take seconds. The driver needs them when training has ended, or to make a
# new encoder, so it imports them then: the workers should not wait for it.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hbt_ray.evaluation.evaluator import EvalReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run's folder, its reports by benchmark, and the command that shows it in MLflow."""

    folder: RunDir
    reports: Mapping[str, EvalReport]
    ui_command: str

    @property
    def metrics(self) -> dict[str, float]:
        """Every benchmark's metrics."""
        return {name: value for report in self.reports.values() for name, value in report.metrics.items()}


def run(config: RunConfig, out: str | Path, *, fresh: bool = False, in_process: bool = False) -> FinishedRun:
    """Prepare, train, evaluate and track one run; called again for the same folder, resume it.

    Args:
        config: of the run.
        out: its folder.
        fresh: start over if the folder has a run already.
        in_process: prepare, train and evaluate in this process, without Ray.

    Raises:
        HbtError: a setting, file or resource is missing or wrong. All that can be checked before training is.
    """
    config = with_absolute_paths(config)
    if in_process and config.train.max_workers > 1:
        raise ConfigError("this process is one worker; write train.workers=1, or train on Ray")
    if in_process and config.train.evaluate_every:
        raise ConfigError("checkpoints are evaluated during training only on Ray; write train.evaluate_every=0")
    if in_process and config.train.gpu:
        from hbt_ray.models.encoder import default_device

        if default_device() == "cpu":
            raise ConfigError("train.gpu=true, and torch finds no GPU in this process; write train.gpu=false")
    threads = config.train.threads_per_worker if in_process else None
    with lock_folder(run_dir_of(config, out).path), _torch_threads(threads):
        return _run(config, open_run(config, out, fresh=fresh), fresh, in_process)


@contextlib.contextmanager
def _torch_threads(number: int | None) -> Iterator[None]:
    """Set the number of torch's threads in the block; None: leave it as it is."""
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(config: RunConfig, folder: RunDir, fresh: bool, in_process: bool) -> FinishedRun:
    end_of("imports")
    uri = resolve_uri(config.tracking, folder.path)
    fingerprints = {}
    if config.evaluate.benchmarks:
        from hbt_ray.evaluation.run_evaluation import check_benchmarks

        fingerprints = check_benchmarks(config.evaluate)
    end_of("checks")
    threads = None
    if in_process:
        import torch

        check_reachable(uri)
        threads = torch.get_num_threads()
        store = prepare_here(config.prepare_inputs, folder.stores)
    else:
        with ThreadPoolExecutor(1) as pool:  # MLflow's import takes seconds, in which Ray's processes start
            reachable = pool.submit(check_reachable, uri)
            connect()
            reachable.result()
        resources_per_worker(config.train)
        end_of("Ray and MLflow")
        store = prepare(config.prepare_inputs, folder.stores)
        end_of("store")
    print_line(describe_store(store, read_manifest(store)))
    return run_prepared(config, store, folder, fingerprints, fresh=fresh, threads=threads)


def run_prepared(
    config: RunConfig,
    store: Path,
    folder: RunDir,
    fingerprints: Mapping[str, str],
    *,
    fresh: bool,
    threads: int | None = None,
) -> FinishedRun:
    """Train, evaluate and track one run whose store exists. The caller holds the folder's lock.

    Args:
        config: of the run, with absolute paths.
        store: folder of its token store.
        folder: of the run, from `open_run`.
        fingerprints: of its benchmarks, by name.
        fresh: the folder may hold an earlier run, which is replaced.
        threads: torch threads with which to train and evaluate in this process; None: on the cluster.
    """
    uri = resolve_uri(config.tracking, folder.path)
    manifest = read_manifest(store)
    sampler = training_sampler(config, manifest)
    validation_sampler(config, manifest)
    tokenizer = store_tokenizer(store, config.prepare_inputs)
    logger.info("built the sampler over %d streams of the store %s", len(sampler.streams), store)
    with starting_over(folder, fresh):
        record_inputs(folder, config, manifest)
        evaluated_with = {"evaluate": config.evaluate.fingerprint(), "benchmarks": fingerprints}
        if changed_input(folder.evaluated_with, evaluated_with, has_begun=folder.config.exists()):
            folder.checkpoint_metrics.delete()  # checkpoints are evaluated again
            mark_done(folder.evaluated_with, evaluated_with)
        folder.write_config(config)
        tracker = start_tracker(uri, config.tracking.experiment, config.name, config, folder)
        hint = f"the same command resumes from the newest checkpoint in {folder.checkpoints}"
        with tracked_run(tracker, hint, system_metrics=threads is None):
            best_effort_tracking(tracker, lambda: _log_inputs(tracker, config, store, sampler))
            reports, step = _train_and_evaluate(config, store, tokenizer, folder, tracker, threads)
    mark_completed(folder, config, step)
    return FinishedRun(folder, reports, ui_guide(uri, config.tracking.experiment))


def _log_inputs(tracker: Tracker, config: RunConfig, store: Path, sampler: HybridStepSampler) -> None:
    log_inputs(tracker, config, store, "training")
    batches = config.train.steps * config.train.gradient_accumulation
    tracker.set_tags({"store": read_manifest(store).content_fingerprint(), "order": order_digest(sampler, batches)})
    mix = sampler.realised_mix(0, batches)
    rows = [{"of": of, "value": value, "share": fraction} for of, by in mix.items() for value, fraction in by.items()]
    tracker.log_table("realised_mix", rows)


def _train_and_evaluate(
    config: RunConfig,
    store: Path,
    tokenizer: PreTrainedTokenizerFast,
    folder: RunDir,
    tracker: Tracker,
    threads: int | None,
) -> tuple[dict[str, EvalReport], int]:
    """Return the reports, and the step whose weights the model has."""
    if threads is None and not CheckpointManager(folder.checkpoints).steps():
        initial = leave_to_workers(config, folder)
    else:
        initial = prepare_initial_model(config, tokenizer, folder)
    logger.info("initial encoder: %s", initial)
    end_of("run")
    on_metrics = metrics_logger(tracker, folder)
    if threads is None:
        steps = train(config, store, initial, folder, on_metrics)
    else:
        task = ContrastiveTask(config, str(initial), benchmark_metrics)
        steps = train_run(task, store, folder, on_metrics=on_metrics)
    tracker.log_metrics({"train/steps": steps}, steps)
    export_encoder(config, initial, store, folder.checkpoints, steps, folder.model)
    logger.info("exported the weights of step %d to %s", steps, folder.model)
    reports = {}
    trust_remote_code = config.model.trust_remote_code
    from hbt_ray.evaluation.model_card import write_model_card

    if config.evaluate.benchmarks:
        from hbt_ray.cluster.evaluation.evaluate import evaluate_here, evaluate_on_cluster

        evaluate = evaluate_on_cluster if threads is None else functools.partial(evaluate_here, threads=threads)
        for report in evaluate(
            str(folder.model), config.evaluate, folder.evaluations, trust_remote_code=trust_remote_code
        ):
            reports[report.benchmark] = report
            best_effort_tracking(tracker, functools.partial(_log_report, config, report, folder, tracker))
        metrics = {name: value for report in reports.values() for name, value in report.metrics.items()}
        log_report_metrics(tracker, metrics, steps)
    write_model_card(folder.model, config, read_manifest(store), reports)
    if config.tracking.log_model:
        best_effort_tracking(
            tracker,
            lambda: tracker.log_model(folder.model, config.name, steps, trust_remote_code=trust_remote_code),
        )
    return reports, steps


def _log_report(config: RunConfig, report: EvalReport, folder: RunDir, tracker: Tracker) -> None:
    name = report.benchmark
    paths = {benchmark_slug(key): path for key, path in config.evaluate.benchmarks.items()}
    source = paths.get(name) or name  # a perturbed benchmark has no files
    tracker.log_dataset(name, report.fingerprint, source, report.counts, "evaluation")
    tracker.log_artifacts(folder.evaluations / name, f"evaluation/{name}")
