"""A whole pretraining: corpora to store to pretrained encoder, tracked from its first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.resources import resources_per_worker
from hbt_ray.cluster.runtime import configure_logging, connect, get_within
from hbt_ray.cluster.tracked_run import (
    best_effort_tracking,
    log_inputs,
    metrics_logger,
    start_tracker,
    tracked_run,
)
from hbt_ray.cluster.training.async_evaluation import EVALUATION_TIMEOUT_S
from hbt_ray.cluster.training.driver import eval_task_options, run_training
from hbt_ray.config import PretrainRunConfig, with_absolute_paths
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.model_files import check_trainable
from hbt_ray.data.prepare import describe_store
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import load_tokenizer
from hbt_ray.data.zero_shot import keep_decontaminated
from hbt_ray.pretraining.task import (
    AnyPretrainingTask,
    check_encoder,
    check_pretraining,
    make_pretraining_task,
    pretraining_sampler,
)
from hbt_ray.tracking import Tracker, check_reachable, resolve_uri, ui_guide
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.completed_run import mark_completed
from hbt_ray.training.previous_run import starting_over
from hbt_ray.training.resume import open_run
from hbt_ray.training.run_dir import LOSSES_OF_PRETRAINING, RunDir, run_dir_of
from hbt_ray.training.run_inputs import record_inputs
from hbt_ray.utils.atomic_write import atomic_folder
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.progress import print_line

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedPretraining:
    """A pretraining's folder, its held-out metrics, and the command that shows it in MLflow."""

    folder: RunDir
    held_out: Mapping[str, Mapping[str, float]]  # language -> "before", "after"
    ui_command: str


def pretrain(config: PretrainRunConfig, out: str | Path, *, fresh: bool = False) -> FinishedPretraining:
    """Prepare, pretrain, evaluate and track one run; called again for the same folder, resume it.

    Raises:
        HbtError: a setting, file or resource is missing or wrong. All that can be checked before training is.
    """
    config = with_absolute_paths(config)
    with lock_folder(run_dir_of(config, out).path):
        return _pretrain(config, open_run(config, out, fresh=fresh), fresh)


def _pretrain(config: PretrainRunConfig, folder: RunDir, fresh: bool) -> FinishedPretraining:
    uri = resolve_uri(config.tracking, folder.path)
    check_reachable(uri)
    if config.model.path is not None:
        check_trainable(config.model.path, (config.text.query_prefix, config.text.passage_prefix))
        check_encoder(config, load_tokenizer(config.model))
    connect()
    resources_per_worker(config.pretrain)
    store = prepare(config.prepare_inputs, folder.stores)
    manifest = read_manifest(store)
    check_pretraining(config, store_tokenizer(store, config.prepare_inputs), manifest)
    print_line(describe_store(store, manifest))
    tags = {"objective": config.pretrain.objective, "seed": config.seed}
    with starting_over(folder, fresh):
        record_inputs(folder, config, manifest)
        folder.write_config(config)
        tracker = start_tracker(uri, config.tracking.experiment, config.name, config, folder, tags)
        with tracked_run(tracker, f"the same command resumes from the newest checkpoint in {folder.checkpoints}"):
            task = make_pretraining_task(config, store, folder)
            logger.info("initial encoder: %s", task.initial_model)
            best_effort_tracking(tracker, lambda: _log_inputs(tracker, task, store))
            held_out, step = _pretrain_and_evaluate(task, store, folder, tracker)
    mark_completed(folder, config, step)
    return FinishedPretraining(folder, held_out, ui_guide(uri, config.tracking.experiment))


def _log_inputs(tracker: Tracker, task: AnyPretrainingTask, store: Path) -> None:
    log_inputs(tracker, task.config, store, "pretraining")
    sampler = pretraining_sampler(task.config, read_manifest(store))
    rows = [
        {"language": stream.name, "tokens": stream.tokens, "share": fraction}
        for stream, fraction in zip(sampler.streams, sampler.probabilities.tolist(), strict=True)
    ]
    tracker.log_table("languages", rows)


def _pretrain_and_evaluate(
    task: AnyPretrainingTask, store: Path, folder: RunDir, tracker: Tracker
) -> tuple[dict[str, dict[str, float]], int]:
    """Return the held-out metrics, and the step whose weights the model has."""
    metrics_before = _start_evaluation(task, store, folder, 0)  # while the workers start
    last = run_training(task, store, folder, metrics_logger(tracker, folder))
    metrics_after = _start_evaluation(task, store, folder, last)
    from hbt_ray.models.encoder import save_encoder
    from hbt_ray.pretraining.perplexity import write_before_and_after
    from hbt_ray.training.checkpoint import CheckpointManager

    trainer = task.build_trainer("cpu")
    CheckpointManager(folder.checkpoints).load_weights(last, trainer.checkpointed_module)
    with atomic_folder(folder.model) as partial:
        save_encoder(trainer.encoder, partial)
        keep_decontaminated(store, task.initial_model, partial)
    before, after = metrics_before(), metrics_after()
    tracker.log_metrics(before, 0)
    tracker.log_metrics(after | {"train/steps": last}, last)
    held_out = write_before_and_after(folder.path, before, after)
    best_effort_tracking(tracker, lambda: _log_outputs(tracker, task, folder, last))
    return held_out, last


def _log_outputs(tracker: Tracker, task: AnyPretrainingTask, folder: RunDir, last: int) -> None:
    for name in LOSSES_OF_PRETRAINING:
        if (folder.path / name).exists():
            tracker.log_artifacts(folder.path / name)
    if task.config.tracking.log_model:
        model = task.config.model
        tracker.log_model(folder.model, task.config.name, last, trust_remote_code=model.trust_remote_code)


def _start_evaluation(
    task: AnyPretrainingTask, store: Path, folder: RunDir, step: int
) -> Callable[[], dict[str, float]]:
    """Start a task that evaluates a step's checkpoint, unless its metrics are stored; return a function that waits."""
    stored = dict(load_checkpoint_metrics(folder.checkpoint_metrics))
    if step in stored:
        return lambda: stored[step]
    evaluation = ray.remote(_evaluate).options(**eval_task_options(task.train)).remote(task, store, folder, step)

    def wait() -> dict[str, float]:
        with unwrap_ray_errors("evaluating"):
            metrics: dict[str, float] = get_within(evaluation, EVALUATION_TIMEOUT_S, "the evaluation")
        save_checkpoint_metrics(folder.checkpoint_metrics, step, metrics)
        return metrics

    return wait


def _evaluate(task: AnyPretrainingTask, store: Path, folder: RunDir, step: int) -> dict[str, float]:
    from hbt_ray.models.encoder import default_device

    configure_logging()
    return task.evaluate_checkpoint(TokenStore.open(store), folder.checkpoints, step, default_device())


def held_out_table(held_out: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of the metrics before and after pretraining, by language, for a terminal."""
    from rich.table import Table

    table = Table("language", title="perplexity, or contrastive loss, of held-out text")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    for language, values in held_out.items():
        table.add_row(language, f"{values['before']:,.1f}", f"{values['after']:,.1f}")
    return table
