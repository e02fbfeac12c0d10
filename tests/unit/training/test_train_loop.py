"""The training loop: logging, checkpoints, skipped steps and early stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from hbt_ray.config import EarlyStoppingConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import TrainingDiverged
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.base_trainer import StepSignals
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.train_loop import LogBuffer, run_train_loop
from hbt_ray.training.train_state import TrainState
from tests.helpers import tiny_corpus


@dataclass
class RecordingCallbacks:
    """Callbacks that request a checkpoint at a given step and have a preemption notice from a given step on."""

    checkpoint_requested_after: int = -1
    notice_from: int = 10**9
    step: int = 0
    logged: list[int] = field(default_factory=list)
    saved: dict[int, dict[str, float]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    noticed: bool = False

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        self.logged += [step.step for step in metrics.steps]

    def log_skipped_step(self, progress: TrainState) -> str:
        self.skipped.append(progress.step)
        return "a, b and c"

    def signals(self) -> StepSignals:
        self.step += 1
        return StepSignals(self.step == self.checkpoint_requested_after, check_preemption=True)

    def must_save(self, progress: TrainState) -> bool:
        new = progress.step >= self.notice_from and not self.noticed
        self.noticed |= new
        return new

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        self.saved[progress.step] = metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("loop")
    tiny_corpus.make_store(made / "store")
    tiny_corpus.make_encoder(made / "encoder")
    return made


def run(folder: Path, callbacks: RecordingCallbacks, poisoned: tuple[int, ...] = (), **train) -> TrainState:
    """Trains on the tiny corpus; the gradients of `poisoned` steps are not finite."""
    settings = {"steps": 6, "global_batch_pairs": 8, "chunk_pairs": 4, "precision": "fp32", "checkpoint_every": 100}
    trainer = ContrastiveTrainer(tiny_corpus.make_encoder(folder / "encoder"), TrainConfig(**settings | train), seed=5)
    store = TokenStore.open(folder / "store")
    plan = tiny_corpus.make_sampler(store)
    weight = next(p for p in trainer.encoder.parameters() if p.requires_grad)
    weight.register_hook(lambda g: g * torch.nan if callbacks.step - 1 in poisoned else g)
    batches = (build_batch(plan.batch(step), store) for step in range(100))
    validation = [build_batch(plan.batch(200), store)] if trainer.train.validation_every else []
    return run_train_loop(trainer, TrainState(), batches, validation, callbacks)


def test_loop_logs_every_step_once_and_saves_the_last(folder):
    callbacks = RecordingCallbacks()
    assert run(folder, callbacks).step == 6
    assert callbacks.logged == [1, 2, 3, 4, 5, 6]
    assert list(callbacks.saved) == [6]


def test_loop_saves_by_steps_on_request_and_on_preemption_notice(folder):
    callbacks = RecordingCallbacks(checkpoint_requested_after=3, notice_from=5)
    run(folder, callbacks, checkpoint_every=2)
    assert list(callbacks.saved) == [2, 3, 4, 5, 6]


def test_loop_saves_once_per_preemption_notice(folder):
    callbacks = RecordingCallbacks(notice_from=2)
    run(folder, callbacks)
    assert list(callbacks.saved) == [2, 6]


def test_loop_saves_checkpoints_with_their_metrics(folder):
    callbacks = RecordingCallbacks()
    run(folder, callbacks, validation_every=3)
    assert list(callbacks.saved) == [3, 6]
    assert all(metrics.keys() == {"loss", "validation_loss"} for metrics in callbacks.saved.values())
    callbacks = RecordingCallbacks()
    run(folder, callbacks, validation_every=3, checkpoint_every=2)
    assert [step for step, metrics in callbacks.saved.items() if "validation_loss" in metrics] == [3, 6]


def test_loop_skips_and_counts_allowed_non_finite_steps(folder):
    callbacks = RecordingCallbacks()
    progress = run(folder, callbacks, poisoned=(1, 4), non_finite_allowed=2)
    assert (progress.step, progress.steps_skipped) == (6, 2)
    assert callbacks.skipped == [1, 4]
    assert callbacks.logged == [1, 3, 4, 6]


def test_loop_raises_with_step_and_pairs_after_too_many_skips(folder):
    callbacks = RecordingCallbacks()
    with pytest.raises(TrainingDiverged, match=r"step 4 is not finite, and 1 such steps are allowed; .* a, b and c"):
        run(folder, callbacks, poisoned=(1, 4), non_finite_allowed=1)
    assert callbacks.saved == {}


def test_loop_stops_at_the_validation_that_exhausts_patience(folder):
    callbacks = RecordingCallbacks()
    stopping = EarlyStoppingConfig(patience=1, min_change=100.0)  # no gain is large enough
    progress = run(folder, callbacks, validation_every=2, early_stopping=stopping)
    assert progress.step == 4
    assert list(callbacks.saved) == [2, 4]
