"""What each rank of a training runs."""

from __future__ import annotations

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
from hbt_ray.config import RunConfig
from hbt_ray.experiment import training_plan, validation_batches
from hbt_ray.loop import train_to_the_end
from hbt_ray.store import TokenStore
from hbt_ray.trainer import trainer_of


def work(told: dict[str, Any]) -> None:
    """Trains from where the newest checkpoint left off to the end, in step with the other ranks."""
    quiet()
    if ray.get(told["reports"].get_mistake.remote()) is not None:
        return  # starting again cannot help
    config = RunConfig.model_validate(told["config"])
    store_folder = Path(told["store"])
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = str(ray.train.torch.get_device())

    store = TokenStore.open(store_folder)
    trainer = trainer_of(config, told["initial_model"], device)
    plan = training_plan(config, store.manifest)
    company = ClusterCompany(trainer, Checkpoints(told["checkpoints"]), told["reports"], plan, store)
    progress = company.restore()
    each = config.train.gradient_accumulation
    batches = feed(
        config,
        store_folder,
        rank=rank,
        num_ranks=num_ranks,
        first_step=progress.step * each,
        last_step=config.train.steps * each,
    )
    train_to_the_end(trainer, progress, batches, validation_batches(config, store, rank, num_ranks), company)
