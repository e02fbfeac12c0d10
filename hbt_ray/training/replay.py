"""Compute one step of a run again, and digest its batches, weights and gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hbt_ray.config import RunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.progress import stage


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """Digests of a step: 16 hex digits each."""

    step: int  # counted from 0
    checkpoint: int  # the step that it was computed from
    batches: str  # of the token ids: equal on every machine
    weights: str  # before the step
    gradient: str  # of the step's mean loss, before clipping
    loss: float


def replay_step(
    config: RunConfig, folder: RunDir, initial_model: str, store: TokenStore, step: int, *, device: str = "cpu"
) -> ReplayedStep:
    """Compute a step of a run again, in this process and with one thread.

    1. Load the newest checkpoint at or before the step, or else the initial encoder.
    2. Train up to the step. Nothing is written.
    3. Compute the gradient of the step's batches.

    Equal digests need equal kernels: the same version of torch, and the same kind of processor.

    Args:
        config: of the run.
        folder: of the run.
        initial_model: folder or hub name of the encoder that the run started from.
        store: that it is trained on.
        step: counted from 0.
        device: to compute on.

    Raises:
        ConfigError: the run has no such step, or its workers had negatives of their own.
    """
    if not 0 <= step < config.train.steps:
        raise ConfigError(f"the run has steps 0 to {config.train.steps - 1}, and --step is {step}; write one of them")
    if config.train.max_workers > 1 and not config.train.gather_negatives:
        raise ConfigError(
            "each worker of the run had negatives of its own (gather_negatives=false), which one process cannot repeat"
        )
    task = ContrastiveTask(config, initial_model, lambda *_: {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # 1.
        trainer = task.build_trainer(device, store)
        checkpoints = CheckpointManager(folder.checkpoints)
        saved = max((saved for saved in checkpoints.steps() if saved <= step), default=0)
        progress = checkpoints.load(saved, trainer) if saved else TrainState()
        # 2.
        per_step = config.train.gradient_accumulation
        batches = task.batches(store, range(progress.step * per_step, (step + 1) * per_step))
        with stage("training", step, "steps", done=progress.step) as shown:
            shown.starts_slowly = True
            for number in range(progress.step, step):
                trainer.step(number, [next(batches) for _ in range(per_step)])
                shown.move_to(number + 1)
        # 3.
        of_step = list(batches)
        weights = _digest(parameter.detach() for parameter in trainer.module.parameters())
        losses, parameters = trainer.gradient_of(of_step)
        gradient = _digest(parameter.grad for parameter in parameters if parameter.grad is not None)
    finally:
        torch.set_num_threads(threads)
    mean_loss = float(torch.stack(losses).mean())
    return ReplayedStep(step, progress.step, _digest_of_batches(of_step), weights, gradient, mean_loss)


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest_of_batches(batches: Iterable[PairBatch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for part in (batch.query_ids, batch.query_lengths, batch.passage_ids, batch.passage_lengths):
            digest.update(np.ascontiguousarray(part, "<i4").tobytes())
    return digest.hexdigest()[:16]
