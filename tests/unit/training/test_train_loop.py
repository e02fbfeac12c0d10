"""The loop: what is told, what is saved, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from hbt_ray.config import EarlyStoppingConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import TrainingDiverged
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from hbt_ray.training.train_loop import LogBuffer, run_train_loop
from hbt_ray.training.train_state import TrainState
from tests.helpers import tiny_corpus


@dataclass
class Company:
    """Wishes at given steps, and a notice that a machine is to be taken away from a given step on."""

    wishes_checkpoint_after: int = -1
    notice_from: int = 10**9
    step: int = 0
    told: list[float] = field(default_factory=list)
    saved: dict[int, dict[str, float]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    noticed: bool = False

    def tell(self, progress: TrainState, measured: LogBuffer) -> None:
        self.told += [step["step"] for step in measured.steps]

    def tell_skipped(self, progress: TrainState) -> str:
        self.skipped.append(progress.step)
        return "a, b and c"

    def wishes(self) -> tuple[bool, bool]:
        self.step += 1
        return self.step == self.wishes_checkpoint_after, True

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


def run(folder: Path, company: Company, poisoned: tuple[int, ...] = (), **train) -> TrainState:
    """Trains on the tiny corpus; the gradients of `poisoned` steps are not finite."""
    settings = {"steps": 6, "global_batch_pairs": 8, "chunk_pairs": 4, "precision": "fp32", "checkpoint_every": 100}
    trainer = ContrastiveTrainer(tiny_corpus.make_encoder(folder / "encoder"), TrainConfig(**settings | train), seed=5)
    store = TokenStore.open(folder / "store")
    plan = tiny_corpus.make_plan(store)
    weight = next(p for p in trainer.encoder.parameters() if p.requires_grad)
    weight.register_hook(lambda g: g * torch.nan if company.step - 1 in poisoned else g)
    batches = (build_batch(plan.batch(step), store) for step in range(100))
    validation = [build_batch(plan.batch(200), store)] if trainer.train.validation_every else []
    return run_train_loop(trainer, TrainState(), batches, validation, company)


def test_every_step_is_told_once_and_the_last_is_saved(folder):
    company = Company()
    assert run(folder, company).step == 6
    assert company.told == [1, 2, 3, 4, 5, 6]
    assert list(company.saved) == [6]


def test_checkpoints_come_by_steps_when_wished_for_and_on_notice(folder):
    company = Company(wishes_checkpoint_after=3, notice_from=5)
    run(folder, company, checkpoint_every=2)
    assert list(company.saved) == [2, 3, 4, 5, 6]


def test_a_notice_is_saved_for_once(folder):
    company = Company(notice_from=2)
    run(folder, company)
    assert list(company.saved) == [2, 6]


def test_a_checkpoint_carries_what_was_measured_for_it(folder):
    company = Company()
    run(folder, company, validation_every=3)
    assert list(company.saved) == [3, 6]
    assert all(metrics.keys() == {"loss", "validation_loss"} for metrics in company.saved.values())
    company = Company()
    run(folder, company, validation_every=3, checkpoint_every=2)
    assert [step for step, metrics in company.saved.items() if "validation_loss" in metrics] == [3, 6]


def test_steps_that_are_not_finite_are_skipped_counted_and_told_as_far_as_allowed(folder):
    company = Company()
    progress = run(folder, company, poisoned=(1, 4), non_finite_allowed=2)
    assert (progress.step, progress.steps_skipped) == (6, 2)
    assert company.skipped == [1, 4]
    assert company.told == [1, 3, 4, 6]


def test_one_more_ends_training_with_its_step_and_pairs(folder):
    company = Company()
    with pytest.raises(TrainingDiverged, match=r"step 4 is not finite, and 1 such steps are allowed; .* a, b and c"):
        run(folder, company, poisoned=(1, 4), non_finite_allowed=1)
    assert company.saved == {}


def test_early_stopping_ends_at_the_validation_that_exhausts_patience(folder):
    company = Company()
    stopping = EarlyStoppingConfig(patience=1, min_change=100.0)  # no gain is large enough
    progress = run(folder, company, validation_every=2, early_stopping=stopping)
    assert progress.step == 4
    assert list(company.saved) == [2, 4]
