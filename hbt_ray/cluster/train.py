"""Training on the cluster with Ray Train: DDP workers, checkpoints, restarts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.callback import UserCallback

from hbt_ray.batches import build_batch
from hbt_ray.checkpoint import load_checkpoint, read_progress, save_checkpoint
from hbt_ray.cluster.connect import node_sizes, quiet
from hbt_ray.cluster.failures import explained
from hbt_ray.cluster.feed import feed
from hbt_ray.cluster.follow import Follower, start_reports
from hbt_ray.config import RunConfig
from hbt_ray.errors import TrainingDiverged
from hbt_ray.experiment import RunFolder, validation_plan
from hbt_ray.loop import Measured, train_to_the_end
from hbt_ray.model import load_encoder
from hbt_ray.progress import Progress
from hbt_ray.records import Batch
from hbt_ray.resources import check_workers, share_of_each
from hbt_ray.store import TokenStore
from hbt_ray.trainer import Trainer

SCORE = "validation_loss"
UNVALIDATED = 1e30  # a finite score, so that checkpoints without a validation are the first to go
STARTS_TRIED = 60  # of a worker group, about a minute each, before a run gives up waiting for nodes


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """Which weights to keep."""

    checkpoint: Path
    steps: int  # optimizer steps that made them


def resources_per_worker(config: RunConfig) -> dict[str, float]:
    """What each worker asks for: a GPU where every worker can have one, else its share of the CPUs.

    Raises:
        ClusterError: the cluster can never give it to all workers, autoscaled nodes counted.
    """
    workers = config.train.workers
    gpu = sum(map(int, node_sizes("GPU"))) >= workers if config.train.gpu is None else config.train.gpu
    resources: dict[str, float] = {"GPU": 1} if gpu else {}
    resources["CPU"] = config.train.threads_per_worker or (1 if gpu else share_of_each(node_sizes("CPU"), workers))
    for name, each in resources.items():
        check_workers(workers, each, name, node_sizes(name))
    return resources


def train(
    config: RunConfig,
    store: Path,
    initial_model: str | Path,
    folder: RunFolder,
    on_metrics: Callable[[int, dict[str, float]], None],
) -> TrainedRun:
    """Trains until the last step, or early stopping; goes on from the newest checkpoint in the run's folder.

    Args:
        initial_model: folder or hub name of the encoder to start from.
        on_metrics: called on the driver with an optimizer step and what was measured there.

    Raises:
        ClusterError: the cluster can never give the workers, or they failed more often than allowed.
        TrainingDiverged: a gradient was not finite.
    """
    resources = resources_per_worker(config)
    reports = start_reports()
    early_stopping = config.train.early_stopping is not None
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "store": str(store),
            "initial_model": str(initial_model),
        },
        torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=folder.checkpoints.name,
            storage_path=str(folder.path),
            failure_config=FailureConfig(max_failures=config.train.max_failures, controller_failure_limit=STARTS_TRIED),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.train.checkpoints_kept,
                checkpoint_score_attribute=SCORE if early_stopping else None,
                checkpoint_score_order="min",
            ),
            callbacks=[_ToDriver(reports)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with explained("training"), Follower(reports, config, on_metrics):
        result = trainer.fit()
    if result.return_value is not None:
        raise TrainingDiverged(result.return_value)
    checkpoint = result.checkpoint
    if early_stopping and result.best_checkpoints:
        checkpoint = min(result.best_checkpoints, key=lambda kept: kept[1][SCORE])[0]
    assert checkpoint is not None, "training ended without a checkpoint"
    return TrainedRun(Path(checkpoint.path), read_progress(checkpoint.path).step)


class _ToDriver(UserCallback):
    """Hands what workers report to the driver, which alone prints and tracks. Runs on the controller."""

    def __init__(self, reports: Any) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.reports.put.remote(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = min(worker_exceptions.items())
        self.reports.put.remote({"failure": f"worker {rank}: {str(error).strip().splitlines()[-1]}"})


def _worker(settings: dict[str, Any]) -> str | None:
    """What each rank runs. Returns why training cannot go on, where starting again would not help."""
    quiet()
    config = RunConfig.model_validate(settings["config"])
    store_folder = Path(settings["store"])
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = str(ray.train.torch.get_device())

    store = TokenStore.open(store_folder)
    encoder = load_encoder(config.model, config.text, settings["initial_model"], device=device)
    trainer = Trainer(encoder, config.train, seed=config.seed)
    progress = Progress()
    if restored := ray.train.get_checkpoint():
        with restored.as_directory() as path:
            progress = load_checkpoint(path, trainer)
    each = config.train.gradient_accumulation
    batches = feed(
        config,
        store_folder,
        rank=rank,
        num_ranks=num_ranks,
        first_step=progress.step * each,
        last_step=config.train.steps * each,
    )
    try:
        train_to_the_end(
            trainer, progress, batches, _validation_batches(config, store, rank, num_ranks), _Reporter(trainer, rank)
        )
    except TrainingDiverged as diverged:
        return str(diverged)
    return None


def _validation_batches(config: RunConfig, store: TokenStore, rank: int, num_ranks: int) -> list[Batch]:
    plan = validation_plan(config, store.manifest)
    if plan is None:
        return []
    return [build_batch(plan.batch(step), store, rank, num_ranks) for step in range(config.train.validation_batches)]


class _Reporter:
    """Reports to Ray Train; rank 0 brings the checkpoint."""

    def __init__(self, trainer: Trainer, rank: int) -> None:
        self.trainer = trainer
        self.rank = rank

    def __call__(self, progress: Progress, measured: Measured, checkpoint: bool) -> None:
        metrics = {
            "step": progress.step,
            "steps": measured.steps,
            "validated": measured.validation_loss is not None,
            "best_validation_loss": progress.best_validation_loss,
            SCORE: UNVALIDATED if measured.validation_loss is None else measured.validation_loss,
        }
        if self.rank != 0 or not checkpoint:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(folder, self.trainer, progress)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
