"""What each rank of a training runs."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from hbt_ray.cluster.runtime import configure_logging
from hbt_ray.cluster.training.data_feed import feed
from hbt_ray.cluster.training.worker_callbacks import RayTrainCallbacks
from hbt_ray.data.token_store import TokenStore
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.task import TrainingTask, describe_step
from hbt_ray.training.train_loop import run_train_loop


def train_loop_per_worker(told: dict[str, Any]) -> None:
    """Trains from where the newest checkpoint left off to the end, in step with the other ranks."""
    configure_logging()
    if ray.get(told["reports"].get_mistake.remote()) is not None:
        return  # starting again cannot help
    job: TrainingTask = told["job"]
    store_folder = Path(told["store"])
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    store = TokenStore.open(store_folder)
    trainer = job.stepper(str(ray.train.torch.get_device()))
    made_of = functools.partial(describe_step, job, store)
    company = RayTrainCallbacks(trainer, CheckpointManager(told["checkpoints"]), told["reports"], made_of)
    progress = company.restore()
    each = job.train.gradient_accumulation
    batches = feed(
        job,
        store_folder,
        rank=rank,
        num_ranks=num_ranks,
        first_step=progress.step * each,
        last_step=job.train.steps * each,
    )
    run_train_loop(trainer, progress, batches, job.validation_batches(store, rank, num_ranks), company)
