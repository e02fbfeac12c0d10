"""What each rank of a training runs."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from hbt_ray.checkpoint import Checkpoints
from hbt_ray.cluster.company import ClusterCompany
from hbt_ray.cluster.connect import quiet
from hbt_ray.cluster.feed import feed
from hbt_ray.job import Job, step_made_of
from hbt_ray.loop import train_to_the_end
from hbt_ray.store import TokenStore


def work(told: dict[str, Any]) -> None:
    """Trains from where the newest checkpoint left off to the end, in step with the other ranks."""
    quiet()
    if ray.get(told["reports"].get_mistake.remote()) is not None:
        return  # starting again cannot help
    job: Job = told["job"]
    store_folder = Path(told["store"])
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    store = TokenStore.open(store_folder)
    trainer = job.stepper(str(ray.train.torch.get_device()))
    made_of = functools.partial(step_made_of, job, store)
    company = ClusterCompany(trainer, Checkpoints(told["checkpoints"]), told["reports"], made_of)
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
    train_to_the_end(trainer, progress, batches, job.validation_batches(store, rank, num_ranks), company)
