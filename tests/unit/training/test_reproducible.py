"""The reproducible gradient is the gradient, and a number that is not finite is one on every rank."""

from __future__ import annotations

import pytest
import torch

from hbt_ray.config import LossConfig, TrainConfig, build
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer
from tests.helpers.tiny_corpus import make_encoder, make_sampler, make_store

LOSS = LossConfig(consistency=0.5, symmetric=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproducible")
    make_store(folder / "store", negatives=1)
    return folder


def trainer_and_batch(folder, **settings):
    store = TokenStore.open(folder / "store")
    train = {"global_batch_pairs": 12, "chunk_pairs": 4, "precision": "fp32", **settings}
    trainer = ContrastiveTrainer(make_encoder(folder / "encoder"), build(TrainConfig, train), seed=1, loss=LOSS)
    sampler = make_sampler(store, 12, second_questions=True, hard_negatives=1)
    trainer.model.train()
    return trainer, build_batch(sampler.batch(4), store)


def gradient(folder, **settings):
    trainer, batch = trainer_and_batch(folder, **settings)
    loss = trainer.backward(batch)
    trainer.finish_gradient()
    return loss, torch.cat([p.grad.flatten() for p in trainer.encoder.parameters() if p.grad is not None])


def test_gradient_and_loss_are_those_of_the_batch(folder):
    loss, expected = gradient(folder)
    same_loss, found = gradient(folder, reproducible=True)
    assert same_loss == pytest.approx(float(loss), rel=1e-6)
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_gradient_caching_changes_no_bit(folder):
    loss, expected = gradient(folder, reproducible=True)
    same_loss, found = gradient(folder, reproducible=True, gradient_caching=True)
    assert torch.equal(same_loss, loss)
    assert torch.equal(found, expected)


def test_rows_of_the_word_embeddings_change_no_bit(folder):
    weights = []
    for rows in ("all", "batch"):
        trainer, batch = trainer_and_batch(folder, reproducible=True, embedding_gradient=rows, learning_rate=1e-2)
        trainer.step(0, [batch])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.encoder.parameters()]))
    assert torch.equal(*weights)


def test_step_with_a_gradient_that_is_not_finite_is_skipped(folder):
    trainer, batch = trainer_and_batch(folder, reproducible=True)
    before = [p.detach().clone() for p in trainer.encoder.parameters()]
    next(trainer.encoder.parameters()).register_hook(lambda one: one * torch.nan)
    assert trainer.step(0, [batch]).skipped
    assert all(torch.equal(p, was) for p, was in zip(trainer.encoder.parameters(), before, strict=True))


def test_negatives_of_a_worker_only_are_refused():
    with pytest.raises(ConfigError, match="reproducible compares with the passages of all workers"):
        build(TrainConfig, {"reproducible": True, "gather_negatives": False})
