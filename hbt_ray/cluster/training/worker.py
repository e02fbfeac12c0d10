"""The function that each rank of a training runs."""

from __future__ import annotations

import functools
import logging
import os
import socket
import weakref

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.cluster.runtime import configure_task, get_within
from hbt_ray.cluster.training.data_feed import feed
from hbt_ray.cluster.training.heartbeat import HeartbeatSender
from hbt_ray.cluster.training.messages import WorkerConfig
from hbt_ray.cluster.training.worker_callbacks import RayTrainCallbacks
from hbt_ray.data.token_store import TokenStore
from hbt_ray.training.base_trainer import BaseTrainer
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.task import BatchT, describe_step
from hbt_ray.training.train_loop import run_train_loop
from hbt_ray.utils.activity import Phase, begin_step, enter_phase
from hbt_ray.utils.start_up import end_of

logger = logging.getLogger(__name__)


def train_loop_per_worker(config: WorkerConfig) -> None:
    """Train from the newest checkpoint to the end, in step with the other ranks.

    Raises:
        TimeoutError: a wait took longer than `collective_timeout_s`. Ray Train then restarts the workers.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    configure_task(threads)
    task, train, channel = config.task, config.task.train, config.channel
    if get_within(channel.get_fatal_error.remote(), train.collective_timeout_s, "the driver's metrics channel"):
        return  # starting again cannot help
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    begin_step(0)
    enter_phase(Phase.START)
    if rank == 0:
        channel.clear_heartbeats.remote()  # of a worker group of another size
    with HeartbeatSender(channel, rank, train.step_timeout_s):
        name = f"rank {rank} of {num_ranks}"
        logger.info("%s started on %s with %d threads", name, socket.gethostname(), threads)
        store = TokenStore.open(config.store)
        logger.info("%s opened the store %s", name, config.store)
        checkpoints, batches_per_step = CheckpointManager(config.checkpoints), train.gradient_accumulation
        feed_from = functools.partial(
            feed, task, config.store, rank=rank, num_ranks=num_ranks, last_step=train.steps * batches_per_step
        )
        expected_step = max(checkpoints.steps(), default=0)
        batches = feed_from(first_step=expected_step * batches_per_step)  # its task starts while this rank imports
        end_of("workers")
        import sentence_transformers  # noqa: F401  # takes seconds: a stage of its own

        end_of("workers' libraries")
        if rank == 0:
            task.make_initial_model(config.store)
        device = _device()  # before the first collective operation, for which NCCL guesses a device otherwise
        if num_ranks > 1:
            dist.barrier()
        trainer = task.build_trainer(str(device), store)
        _mark_gradient_all_reduce(trainer)
        logger.info("%s loaded the encoder and built the optimizer", name)
        callbacks = RayTrainCallbacks(trainer, checkpoints, channel, functools.partial(describe_step, task, store))
        state = callbacks.restore()
        logger.info("%s restored its state: step %d of %d", name, state.step, train.steps)
        end_of("encoder")
        if state.step != expected_step:  # the newest checkpoint is damaged
            batches = feed_from(first_step=state.step * batches_per_step)
        validation_batches = task.validation_batches(store, rank, num_ranks)
        logger.info("%s built %d validation batches", name, len(validation_batches))
        run_train_loop(trainer, state, batches, validation_batches, callbacks)
        logger.info("%s ended", name)


def _device() -> torch.device:
    """Return the device that Ray Train has assigned to this rank, and make it the one that this thread uses."""
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _mark_gradient_all_reduce(trainer: BaseTrainer[BatchT]) -> None:
    """Have the backward pass enter the phase ALL_REDUCE when only DDP's mean of the gradients is left of it.

    The gradient of the first trained parameter is the last to be computed. Its hook must not keep DDP alive, as that
    would outlive the trainer in a cycle of references.
    """
    if not isinstance(trainer.model, DistributedDataParallel):
        return
    reference = weakref.ref(trainer.model)

    def mark(_: Tensor) -> None:
        model = reference()
        if model is not None and model.require_backward_grad_sync:
            enter_phase(Phase.ALL_REDUCE)

    next(p for p in trainer.model.parameters() if p.requires_grad).register_post_accumulate_grad_hook(mark)
