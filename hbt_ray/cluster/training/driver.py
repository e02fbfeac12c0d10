"""Training on the cluster with Ray Train: DDP workers, checkpoints, restarts."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import uuid
from pathlib import Path

import ray
import ray.train
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train import FailureConfig, LoggingConfig, ScalingConfig, ValidationConfig

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import resources_per_worker
from hbt_ray.cluster.runtime import WorkerGroupTrainer, get_within, node_resources
from hbt_ray.cluster.training.async_evaluation import EVALUATION_TIMEOUT_S, WAITING_TASK, evaluate_checkpoint
from hbt_ray.cluster.training.messages import WorkerConfig
from hbt_ray.cluster.training.metrics_channel import start_metrics_channel
from hbt_ray.cluster.training.process_group import ProcessGroupConfig
from hbt_ray.cluster.training.progress_monitor import ProgressMonitor
from hbt_ray.cluster.training.restart_reporter import RestartReporter
from hbt_ray.cluster.training.watchdog import StepWatchdog
from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.errors import StorageError
from hbt_ray.evaluation.encoder_metrics import benchmark_metrics
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import evaluated_steps
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import BatchT, ContrastiveTask, EvalFn, OnMetrics, TrainingTask
from hbt_ray.training.train_state import steps_to_evaluate

MAX_GROUP_STARTS = 60  # of a worker group, about a minute each, before a run gives up waiting for nodes
RESIZE_CHECK_S = 30.0  # between checks whether an elastic group can grow

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    store: Path,
    initial_model: str | Path,
    folder: RunDir,
    on_metrics: OnMetrics,
    evaluate: EvalFn = benchmark_metrics,
) -> int:
    """Train on pairs. Result and errors as those of `run_training`.

    Args:
        config: of the run.
        store: folder of its token store.
        initial_model: folder or hub name of the encoder to start from.
        folder: of the run.
        on_metrics: called on the driver with an optimizer step and its metrics.
        evaluate: computes an encoder's metrics at each checkpoint that `evaluate_every` selects.
    """
    return run_training(ContrastiveTask(config, str(initial_model), evaluate), store, folder, on_metrics)


def run_training(task: TrainingTask[BatchT], store: Path, folder: RunDir, on_metrics: OnMetrics) -> int:
    """Train to the last step or early stopping, from the newest checkpoint in the run's storage if there is one.

    Args:
        task: what to train; pickled to every worker.
        store: folder of its token store.
        folder: of the run.
        on_metrics: called on the driver with an optimizer step and its metrics.

    Returns:
        The step of the checkpoint whose weights to keep: the last one's, or with early stopping the best one's.

    Raises:
        ClusterError: the cluster cannot hold the workers, or they failed more often than allowed.
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    resources = resources_per_worker(task.train)
    folder.scratch.delete()  # of drivers that were killed: this one holds the folder's lock
    channel = start_metrics_channel()
    config = WorkerConfig(task, store, folder.checkpoints, folder.checkpoint_metrics, channel)
    checkpoints = CheckpointManager(folder.checkpoints)
    stacks_file = folder.path / "stacks.txt"
    watchdog = StepWatchdog(task.train.step_timeout_s, str(stacks_file))
    with (
        unwrap_ray_errors("training"),
        ProgressMonitor(channel, task.train.steps, on_metrics, watchdog, stacks_file) as monitor,
    ):
        late_evaluations = _start_late_evaluations(config)
        attempts = task.train.max_failures + 1
        if checkpoints.has_ended(task.train):
            monitor.notice("the training has already ended")
            attempts = 0
        for attempts_left in reversed(range(attempts)):
            try:
                _fit(config, resources, folder)
                break
            except (ActorDiedError, ActorUnavailableError):
                if not attempts_left:
                    raise
                monitor.notice("Ray Train's controller failed; starting another")
                channel.clear_heartbeats.remote()
        _wait_for_late_evaluations(late_evaluations, monitor)
    if fatal := get_within(channel.get_fatal_error.remote(), task.train.collective_timeout_s, "the metrics channel"):
        raise fatal
    return checkpoints.final_step(task.train)


def _fit(config: WorkerConfig, resources: dict[str, float], folder: RunDir) -> None:
    """Run `WorkerGroupTrainer.fit()` once, with an empty storage path.

    A run is resumed from the checkpoints of `CheckpointManager`, never from Ray Train's state.
    """
    train = config.task.train
    # Ray Train passes it to its controller and workers: the bound of the barrier in `ray.train.report`.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(train.collective_timeout_s)
    logger.info("starting a group of %s workers with %s each", train.workers, resources)
    scratch = folder.scratch / uuid.uuid4().hex[:8]
    filesystem, path = scratch.arrow()
    workers: int | tuple[int, int] = train.max_workers
    if train.min_workers < train.max_workers:
        workers = (train.min_workers, train.max_workers)
    trainer = WorkerGroupTrainer(
        _worker,
        train_loop_config={"config": config},
        backend_config=ProcessGroupConfig("nccl" if "GPU" in resources else "gloo", train.collective_timeout_s),
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
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=MAX_GROUP_STARTS),
            callbacks=[RestartReporter(config.channel, train.max_failures, train.section)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
        validation_config=_validation_config(config) if train.evaluate_every else None,
    )
    try:
        trainer.fit()
    finally:
        with contextlib.suppress(StorageError):
            scratch.delete()


def _validation_config(config: WorkerConfig) -> ValidationConfig:
    """Return how Ray Train evaluates checkpoints while training continues."""
    evaluate = functools.partial(evaluate_checkpoint, config=config, task_options=eval_task_options(config.task.train))
    return ValidationConfig(fn=evaluate, ray_remote_kwargs=WAITING_TASK)


def _start_late_evaluations(config: WorkerConfig) -> list[ray.ObjectRef]:
    """Start tasks that evaluate the checkpoints which an earlier driver did not live to have evaluated."""
    train = config.task.train
    if not train.evaluate_every:
        return []
    evaluated = evaluated_steps(config.checkpoint_metrics)
    recorded = [config.channel.put_evaluated.remote(step) for step in evaluated]
    get_within(recorded, train.collective_timeout_s, "the metrics channel")
    steps = steps_to_evaluate(CheckpointManager(config.checkpoints).steps(), evaluated, train)
    task = ray.remote(evaluate_checkpoint).options(**WAITING_TASK)
    return [task.remote(None, step, config, eval_task_options(train)) for step in sorted(steps)]


def _wait_for_late_evaluations(evaluations: list[ray.ObjectRef], monitor: ProgressMonitor) -> None:
    """Wait for the tasks of `_start_late_evaluations`; after `EVALUATION_TIMEOUT_S` cancel them with a notice."""
    if not evaluations:
        return
    logger.info("waiting for %d evaluations of earlier checkpoints", len(evaluations))
    _, unfinished = ray.wait(evaluations, num_returns=len(evaluations), timeout=EVALUATION_TIMEOUT_S)
    for evaluation in unfinished:
        ray.cancel(evaluation, force=True)
    if unfinished:
        monitor.notice(
            f"{len(unfinished)} checkpoints were not evaluated within {EVALUATION_TIMEOUT_S:g} s; the run continues "
            "without their metrics"
        )
    ray.get([evaluation for evaluation in evaluations if evaluation not in unfinished])


def eval_task_options(train: LoopConfig) -> dict[str, int]:
    """Return the Ray options of a task that evaluates a checkpoint.

    It requests no CPU, so that it is scheduled while the training holds all of them; one GPU if a node has a spare one.
    """
    gpu = max(node_resources("GPU"), default=0) > train.max_workers
    return {"num_cpus": 0, "num_gpus": 1 if gpu else 0, "max_retries": 1}


def _worker(train_loop_config: dict[str, WorkerConfig]) -> None:
    """Run one rank. Imported here: the worker needs libraries that take seconds to import, the driver does not."""
    from hbt_ray.cluster.training.worker import train_loop_per_worker

    train_loop_per_worker(train_loop_config["config"])
