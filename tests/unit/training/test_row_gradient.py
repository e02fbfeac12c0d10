"""A gradient with the rows of a step's tokens gives the bytes of a training with the gradient of all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hbt_ray.config import RunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.models.encoder import load_for_training
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, build_contrastive_trainer
from hbt_ray.training.local_runner import train_locally
from hbt_ray.training.row_gradient import RowGradient, open_row_gradient
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ContrastiveTask
from hbt_ray.utils.digests import file_checksums
from tests.helpers import small_vocabulary
from tests.helpers.small_vocabulary import config_of, saved

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_vocabulary.write_inputs(tmp_path_factory.mktemp("rows"))


@given(st.data())
def test_rows_and_their_norm_are_those_of_the_dense_gradient(data):
    size = data.draw(st.integers(1, 30))
    padding = data.draw(st.sampled_from([None, 0]))
    passes = data.draw(st.lists(st.lists(st.integers(0, size - 1), min_size=1, max_size=20), min_size=1, max_size=3))
    dense, table = (nn.Embedding(size, 16, padding_idx=padding) for _ in range(2))
    table.load_state_dict(dense.state_dict())
    rows = RowGradient(table)
    rows.begin(np.concatenate(passes))
    for ids in map(torch.tensor, passes):
        for embedding in (dense, table):
            (embedding(ids) ** 2 * (1 + torch.arange(len(ids)))[:, None]).sum().backward()
    norms = [nn.utils.clip_grad_norm_(p, 0.1) for p in (dense.parameters(), rows.clipped(table.parameters()))]
    assert norms[0] == norms[1]
    rows.fill()
    assert torch.equal(table.weight.grad, dense.weight.grad)
    table.zero_grad()
    rows.end()
    for embedding in (dense, table):  # outside of a step
        embedding.zero_grad()
        embedding(torch.arange(size)).sum().backward()
    assert torch.equal(table.weight.grad, dense.weight.grad)


def test_a_token_that_is_not_of_the_step_is_an_error():
    table = nn.Embedding(9, 4)
    RowGradient(table).begin(np.array([2, 5]))
    with pytest.raises(AssertionError, match="a token that is not among the ids of the step"):
        table(torch.tensor([2, 3])).sum().backward()


def test_without_known_ids_the_gradient_is_that_of_all_rows():
    table = nn.Embedding(9, 4)
    rows = RowGradient(table)
    rows.begin(None)
    table(torch.tensor([2, 2])).sum().backward()
    assert rows.clipped(table.parameters()) == [table.weight]
    rows.fill()
    assert table.weight.grad.sum(1).tolist() == [0, 0, 8, 0, 0, 0, 0, 0, 0]


CHOICES = ("all", "batch")
CASES: dict[str, dict[str, Any]] = {
    "packed": {},
    "gradient caching": {"train": {"gradient_caching": True, "gradient_accumulation": 2}},
    "hard negatives": {"mix": {"hard_negatives": 1}, "train": {"gradient_accumulation": 2}},
    "some rows": {"train": {"vocabulary": "occurring"}},
}


def checkpoint_of(config: RunConfig, folder: Path, out: Path, stop_at: int | None = None) -> dict[str, str]:
    """Train in `out`, until a step or the end; return the checksums of the last step's checkpoint."""

    def on_metrics(step: int, _: dict[str, float]) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    run = run_dir_of(config, out)
    try:
        task = ContrastiveTask(config, str(folder / "encoder"), lambda *_: {})
        train_locally(task, folder / "store", run, on_metrics=on_metrics)
    except KeyboardInterrupt:
        return {}
    return file_checksums(
        saved(out / "checkpoints", config.train.steps), ["weights.safetensors", "optimizer.safetensors"]
    )


@pytest.mark.parametrize("case", CASES)
def test_a_training_has_the_bytes_of_one_with_all_rows(folder, tmp_path, case):
    files = []
    for gradient in CHOICES:
        train = {"steps": 6, "vocabulary": "all", "embedding_gradient": gradient, **CASES[case].get("train", {})}
        config = config_of(folder, **{"vocabulary": "all", **CASES[case], "train": train})
        files.append(checkpoint_of(config, folder, tmp_path / gradient))
    assert files[0] == files[1]


def test_a_padded_training_differs_by_the_order_of_sums(folder):
    config = {
        x: config_of(folder, "all", model={"attention": "sdpa"}, train={"embedding_gradient": x}) for x in CHOICES
    }
    store = TokenStore.open(folder / "store")
    weights = []
    for gradient in CHOICES:
        trainer = build_contrastive_trainer(config[gradient], folder / "encoder", "cpu", store)
        for batch in ContrastiveTask(config[gradient], str(folder / "encoder"), lambda *_: {}).batches(store, range(5)):
            trainer.step(batch.step, [batch])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.encoder.parameters()]))
    assert (weights[0] - weights[1]).norm() < 1e-5 * weights[0].norm()


@pytest.mark.parametrize(("before", "after"), [("all", "batch"), ("batch", "all"), ("batch", "batch")])
def test_a_run_resumed_with_either_setting_has_the_same_bytes(folder, tmp_path, before, after):
    def config(gradient: str) -> RunConfig:
        train = {"steps": 6, "checkpoint_every": 3, "embedding_gradient": gradient}
        return config_of(folder, "all", train=train)

    expected = checkpoint_of(config("all"), folder, tmp_path / "whole")
    checkpoint_of(config(before), folder, tmp_path / "resumed", stop_at=4)
    assert checkpoint_of(config(after), folder, tmp_path / "resumed") == expected


def test_a_gradient_that_is_not_finite_changes_nothing(folder, monkeypatch):
    config = config_of(folder, "all", train={"embedding_gradient": "batch"})
    store = TokenStore.open(folder / "store")
    trainer = build_contrastive_trainer(config, folder / "encoder", "cpu", store)
    [batch] = ContrastiveTask(config, str(folder / "encoder"), lambda *_: {}).batches(store, range(1))
    before = [p.detach().clone() for p in trainer.encoder.parameters()]
    loss = ContrastiveTrainer.loss
    with monkeypatch.context() as patched:
        patched.setattr(ContrastiveTrainer, "loss", lambda self, batch: loss(self, batch) * np.nan)
        assert trainer.step(9, [batch]).skipped
    assert all(map(torch.equal, trainer.encoder.parameters(), before))
    assert not trainer.step(9, [batch]).skipped
    assert all(p.isfinite().all() for p in trainer.encoder.parameters())


# Where it is done, and where not


def opened(folder: Path, ranks: int = 1, **train: Any) -> RowGradient | None:
    config = config_of(folder, "all", train=train)
    encoder = load_for_training(config.model, config.text, folder / "encoder")
    return open_row_gradient(encoder, config.train, ranks)


def test_auto_is_by_rows_if_the_table_is_large(folder, monkeypatch):
    assert opened(folder) is None
    assert opened(folder, embedding_gradient="batch") is not None
    monkeypatch.setattr("hbt_ray.training.row_gradient.MIN_ROWS_PER_TOKEN", 0)
    assert opened(folder) is not None
    assert opened(folder, embedding_gradient="all") is None


def test_an_encoder_whose_words_are_not_trained_is_refused(folder):
    config = config_of(folder, "all", train={"embedding_gradient": "batch"})
    encoder = load_for_training(config.model, config.text, folder / "encoder").requires_grad_(False)
    with pytest.raises(
        ConfigError,
        match=r"^train\.embedding_gradient=batch is not possible: its word embeddings are not trained; write train\.",
    ):
        open_row_gradient(encoder, config.train, 1)


def test_adapters_have_no_gradient_of_words(folder):
    with pytest.raises(ConfigError, match=r"with model\.lora .*; write train\.embedding_gradient=all"):
        config_of(folder, "all", model={"lora": {"rank": 2}}, train={"embedding_gradient": "batch"})
    with pytest.raises(ConfigError, match=r"with model\.lora .*; write train\.embedding_exchange=fp32"):
        config_of(folder, "all", model={"lora": {"rank": 2}}, train={"embedding_exchange": "bf16"})
