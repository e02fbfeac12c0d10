"""Training on the cluster with Ray Train: DDP workers, checkpoints, restarts."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.callback import UserCallback

from hbt_ray.batches import build_batch
from hbt_ray.checkpoint import Progress, load_checkpoint, save_checkpoint
from hbt_ray.cluster.connect import most, quiet
from hbt_ray.cluster.feed import feed, make_plan
from hbt_ray.cluster.follow import Follower, Reports
from hbt_ray.config import RunConfig
from hbt_ray.errors import ClusterError, ConfigError
from hbt_ray.experiment import RunFolder
from hbt_ray.model import load_encoder
from hbt_ray.plan import HybridPlan
from hbt_ray.records import Batch
from hbt_ray.store import TokenStore
from hbt_ray.trainer import Trainer



@dataclass(frozen=True, slots=True)
class TrainedRun:
    """Where the weights to keep stand, and how training went."""

    checkpoint: Path
    steps: int
    last_metrics: dict[str, float]


def train(
    config: RunConfig,
    store: Path,
    initial_model: str | Path,
    folder: RunFolder,
    on_metrics: Callable[[int, dict[str, float]], None],
) -> TrainedRun:
    """Trains until the last step, or early stopping, and returns the checkpoint to keep.

    Args:
        initial_model: folder or hub name of the encoder to start from.
        on_metrics: called on the driver with an optimizer step and what was measured there.

    Raises:
        ConfigError: the plan cannot be made from the store.
        ClusterError: the cluster can never give the workers.
    """
    resources = resources_per_worker(config)
    make_plan(config, TokenStore.open(store))  # a plan that cannot be made fails here, before workers start
    validation_plan(config, TokenStore.open(store))

    reports = Reports.remote()  # type: ignore[attr-defined]
    follower = Follower(reports, config, on_metrics)
    early_stopping = config.train.early_stopping is not None
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "store": str(store), "initial_model": str(initial_model)},
        torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=folder.checkpoints.name,
            storage_path=str(folder.path),
            failure_config=FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.train.checkpoints_kept,
                checkpoint_score_attribute="validation_loss" if early_stopping else None,
                checkpoint_score_order="min",
            ),
            callbacks=[_ToDriver(reports)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with follower:
        result = trainer.fit()
    checkpoint = result.checkpoint
    if early_stopping and result.best_checkpoints:
        checkpoint = min(result.best_checkpoints, key=lambda pair: pair[1].get("validation_loss", float("inf")))[0]
    assert checkpoint is not None, "training ended without a checkpoint"
    return TrainedRun(Path(checkpoint.path), follower.last_step, follower.last_metrics)


def validation_plan(config: RunConfig, store: TokenStore) -> HybridPlan | None:
    """The order of the validation batches: the training mix over the held-out split, in batches as large as it allows."""
    if not config.train.validation_every:
        return None
    items = max((source.items("validation") for source in store.manifest.sources.values()), default=0)
    workers = config.train.workers
    pairs = min(config.train.global_batch_pairs, items // workers * workers)
    if pairs < 2:
        raise ConfigError(
            f"validation_every={config.train.validation_every} needs a validation split, and the corpora have {items} "
            "items in theirs; raise prepare.validation_share, or write train.validation_every=0"
        )
    return HybridPlan(
        store.manifest,
        config.mix,
        seed=config.seed,
        global_batch_pairs=pairs,
        languages=config.languages,
        split="validation",
    )


def resources_per_worker(config: RunConfig) -> dict[str, float]:
    """What each worker asks the cluster for: a GPU where every worker can have one, else its share of the CPUs."""
    gpu = most("GPU") >= config.train.workers if config.train.gpu is None else config.train.gpu
    if gpu:
        return {"CPU": config.train.threads_per_worker or 1, "GPU": 1}
    return {"CPU": config.train.threads_per_worker or max(1, int(most("CPU")) // config.train.workers)}


def check_workers(config: RunConfig) -> None:
    """Raises ClusterError when the cluster can never give the workers, autoscaled nodes counted."""
    workers = config.train.workers
    for name, each in resources_per_worker(config).items():
        if workers * each > most(name):
            way_out = f"write train.workers={int(most(name) // each)} or fewer"
            if name == "GPU" or most(name) < each:
                way_out = "write train.gpu=false" if name == "GPU" else f"write train.threads_per_worker={int(most(name))}"
            raise ClusterError(
                f"{workers} workers need {workers * each:g} {name}s, and the cluster can give {most(name):g} at most; "
                + way_out
            )


class _ToDriver(UserCallback):
    """Hands what workers report to the driver, which alone prints and tracks. Runs on the controller."""

    def __init__(self, reports: Any) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.reports.put.remote(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = next(iter(sorted(worker_exceptions.items())))
        self.reports.put.remote({"failure": f"worker {rank}: {str(error).strip().splitlines()[-1]}"})


def _worker(settings: dict[str, Any]) -> None:
    """What each rank runs."""
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
    progress = Progress(step=0)
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
    _loop(config, trainer, progress, batches, _validation_batches(config, store, rank, num_ranks), rank)


def _validation_batches(config: RunConfig, store: TokenStore, rank: int, num_ranks: int) -> list[Batch]:
    plan = validation_plan(config, store)
    if plan is None:
        return []
    return [build_batch(plan.batch(step), store, rank, num_ranks) for step in range(config.train.validation_batches)]


def _loop(
    config: RunConfig,
    trainer: Trainer,
    progress: Progress,
    batches: Iterator[Batch],
    validation_batches: list[Batch],
    rank: int,
) -> None:
    train = config.train
    meter = _Meter(train.global_batch_pairs * train.gradient_accumulation)
    while progress.step < train.steps:
        with meter.waiting():
            own = [next(batches) for _ in range(train.gradient_accumulation)]
        assert own[0].step == progress.step * train.gradient_accumulation, "the feed left the plan's order"
        result = trainer.step(progress.step, own)
        progress = replace(progress, step=progress.step + 1)
        meter.add(progress.step, result.loss, result.gradient_norm, result.learning_rate)
        metrics: dict[str, Any] = {}
        stop = False
        if validation_batches and (progress.step % train.validation_every == 0 or progress.step == train.steps):
            least_gain = train.early_stopping.min_change if train.early_stopping else 0.0
            progress = _validated(progress, trainer.validation_loss(validation_batches), least_gain)
            metrics["validation_loss"] = progress.last_validation_loss
            metrics["best_validation_loss"] = progress.best_validation_loss
            stop = train.early_stopping is not None and (
                progress.validations_without_gain >= train.early_stopping.patience
            )
        # Every rank comes to the same answer: from steps and losses, which are equal on all, never from a clock.
        at_checkpoint = bool(metrics) or stop or progress.step % train.checkpoint_every == 0
        if at_checkpoint or progress.step == train.steps:
            _report_checkpoint(trainer, progress, meter.drain() | metrics, rank)
        elif progress.step % meter.report_every == 0:
            ray.train.report(meter.drain())
        if stop:
            return


def _validated(progress: Progress, loss: float, least_gain: float) -> Progress:
    best = progress.best_validation_loss
    gained = best is None or loss < best - least_gain
    return replace(
        progress,
        last_validation_loss=loss,
        best_validation_loss=loss if gained else best,
        validations_without_gain=0 if gained else progress.validations_without_gain + 1,
    )


def _report_checkpoint(trainer: Trainer, progress: Progress, metrics: dict[str, Any], rank: int) -> None:
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, trainer, progress)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


class _Meter:
    """Gathers a rank's measurements between reports."""

    report_every = 10

    def __init__(self, pairs_per_step: int) -> None:
        self.pairs_per_step = pairs_per_step
        self.history: list[dict[str, float]] = []
        self._last = time.perf_counter()
        self._waited_s = 0.0

    def waiting(self) -> _Meter:
        return self

    def __enter__(self) -> None:
        self._wait_from = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited_s = time.perf_counter() - self._wait_from

    def add(self, step: int, loss: float, gradient_norm: float, learning_rate: float) -> None:
        now = time.perf_counter()
        step_s = now - self._last
        self._last = now
        self.history.append(
            {
                "step": step,
                "loss": loss,
                "gradient_norm": gradient_norm,
                "learning_rate": learning_rate,
                "pairs_per_s": self.pairs_per_step / step_s,
                "data_wait_share": self._waited_s / step_s,
            }
        )

    def drain(self) -> dict[str, Any]:
        history, self.history = self.history, []
        return {"step": history[-1]["step"] if history else 0, "history": history}
