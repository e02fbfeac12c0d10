"""Training on the cluster with Ray Train: DDP workers, checkpoints, restarts."""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train import FailureConfig, LoggingConfig, ScalingConfig, ValidationConfig
from ray.train.torch import TorchConfig, TorchTrainer

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import check_workers, threads_of_each
from hbt_ray.cluster.runtime import node_resources
from hbt_ray.cluster.training.async_evaluation import measure_checkpoint
from hbt_ray.cluster.training.metrics_channel import ProgressMonitor, RestartReporter, start_metrics_channel
from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.errors import StorageError
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import evaluated_steps
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import ContrastiveTask, EvalFn, TrainingTask
from hbt_ray.training.train_state import steps_to_evaluate

STARTS_TRIED = 60  # of a worker group, about a minute each, before a run gives up waiting for nodes
RESIZE_CHECK_S = 30.0  # between looks whether an elastic group can grow


def resources_per_worker(train: LoopConfig) -> dict[str, float]:
    """What each worker asks for: a GPU where every worker can have one, else its share of the CPUs.

    Raises:
        ClusterError: the cluster can never give it to the least number of workers, autoscaled nodes counted.
    """
    gpu = sum(map(int, node_resources("GPU"))) >= train.min_workers if train.gpu is None else train.gpu
    resources: dict[str, float] = {"GPU": 1} if gpu else {}
    elastic = train.max_workers > train.min_workers
    each = 1 if gpu or elastic else threads_of_each(node_resources("CPU"), train.max_workers)
    resources["CPU"] = train.threads_per_worker or each
    for name, amount in resources.items():
        check_workers(train.min_workers, amount, name, node_resources(name), train.section)
    return resources


def train(
    config: RunConfig,
    store: Path,
    initial_model: str | Path,
    folder: RunDir,
    on_metrics: Callable[[int, dict[str, float]], None],
    measure: EvalFn = benchmark_metrics,
) -> int:
    """Trains on pairs, as `run_training` says.

    Args:
        initial_model: folder or hub name of the encoder to start from.
        measure: what `evaluate_every` measures of an encoder.
    """
    return run_training(ContrastiveTask(config, str(initial_model), measure), store, folder, on_metrics)


def run_training(
    job: TrainingTask, store: Path, folder: RunDir, on_metrics: Callable[[int, dict[str, float]], None]
) -> int:
    """Trains until the last step, or early stopping; goes on from the newest checkpoint in the run's storage.

    Args:
        on_metrics: called on the driver with an optimizer step and what was measured there.

    Returns:
        The step of the checkpoint whose weights to keep: the last one's, or with early stopping the best one's.

    Raises:
        ClusterError: the cluster can never give the workers, or they failed more often than allowed.
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    resources = resources_per_worker(job.train)
    reports = start_metrics_channel()
    told = {
        "job": job,
        "store": str(store),
        "checkpoints": folder.checkpoints,
        "measured": folder.measured,
        "reports": reports,
    }
    checkpoints = CheckpointManager(folder.checkpoints)
    with unwrap_ray_errors("training"), ProgressMonitor(reports, job.train.steps, on_metrics) as follower:
        late = _measure_late(job.train, told, folder)
        starts = job.train.max_failures + 1
        if checkpoints.has_ended(job.train):
            follower.notice("the training has ended already")
            starts = 0
        for starts_left in reversed(range(starts)):
            try:
                _fit(job.train, resources, told, folder)
                break
            except (ActorDiedError, ActorUnavailableError):
                if not starts_left:
                    raise
                follower.notice("Ray Train's controller failed; starting another")
        ray.get(late)
    if mistake := ray.get(reports.get_mistake.remote()):
        raise mistake
    return checkpoints.to_keep(job.train)


def _fit(train: LoopConfig, resources: dict[str, float], told: dict[str, Any], folder: RunDir) -> None:
    """One life of Ray Train's controller.

    Its own storage is new each time: what a run is gone on from are its checkpoints, whatever else was lost.
    """
    scratch = folder.scratch / uuid.uuid4().hex[:8]
    filesystem, path = scratch.arrow()
    workers: Any = train.max_workers
    if train.min_workers < train.max_workers:
        workers = (train.min_workers, train.max_workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config=told,
        torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=ray.train.RunConfig(
            name=folder.path.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=STARTS_TRIED),
            callbacks=[RestartReporter(told["reports"])],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
        validation_config=_beside_training(train, told) if train.evaluate_every else None,
    )
    try:
        _in_another_thread(trainer.fit)
    finally:
        with contextlib.suppress(StorageError):
            folder.scratch.delete()


def _beside_training(train: LoopConfig, told: dict[str, Any]) -> ValidationConfig:
    """How checkpoints are measured while training goes on."""
    measure = functools.partial(measure_checkpoint, told=told)
    return ValidationConfig(fn=measure, ray_remote_kwargs=beside(train))


def _measure_late(train: LoopConfig, told: dict[str, Any], folder: RunDir) -> list[Any]:
    """Tasks that measure the checkpoints which an earlier driver was stopped before it could have measured."""
    if not train.evaluate_every:
        return []
    measured = evaluated_steps(folder.measured)
    ray.get([told["reports"].put_evaluated.remote(step) for step in measured])
    steps = steps_to_evaluate(CheckpointManager(folder.checkpoints).steps(), measured, train)
    task = ray.remote(measure_checkpoint).options(**beside(train))
    return [task.remote(None, step, told) for step in sorted(steps)]


def beside(train: LoopConfig) -> dict[str, Any]:
    """What a measuring task asks for: no CPU, so that it takes none from the training in Ray's books."""
    gpu = max(node_resources("GPU"), default=0) > train.max_workers
    return {"num_cpus": 0, "num_gpus": 1 if gpu else 0, "max_retries": 1}


def _in_another_thread(work: Callable[[], Any]) -> None:
    """Waits for some work. In the main thread Ray Train would take Ctrl-C for itself, and end with success."""
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)  # with a timeout, so that signals are seen to
    if raised:
        raise raised[0]


def _worker(told: dict[str, Any]) -> None:
    """What each rank runs. It brings libraries that take seconds to import, and that the driver does without."""
    from hbt_ray.cluster.training.worker import train_loop_per_worker

    train_loop_per_worker(told)
