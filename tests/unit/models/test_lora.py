"""Adapters alone are trained, and what is saved is an encoder like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import MPNetConfig, MPNetModel

from hbt_ray.config import LoraConfig, ModelConfig, TrainConfig, build_config
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.models.deterministic_dropout import DeterministicDropout
from hbt_ray.models.encoder import load_for_training, save_encoder
from hbt_ray.models.lora import adapter_weights, merged
from hbt_ray.models.packed_attention import is_packed
from hbt_ray.models.text_embedder import TextEmbedder
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.training.checkpoint import WEIGHTS, CheckpointManager
from hbt_ray.training.contrastive_trainer import ContrastiveTrainer, build_contrastive_trainer
from hbt_ray.training.train_state import TrainState
from hbt_ray.utils.storage import StoragePath
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [tiny_corpus.passage(language, item) for language in tiny_corpus.LANGUAGES for item in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("lora")
    tiny_corpus.make_store(made / "store", negatives=1)
    tiny_corpus.make_encoder(made / "encoder")
    return made


def make_encoder(folder: Path, seed: int = 1, model: str = "encoder", attention="auto", **lora) -> SentenceTransformer:
    settings = tiny_corpus.MODEL.model_copy(update={"attention": attention, "lora": LoraConfig(**lora)})
    return load_for_training(settings, tiny_corpus.TEXT, folder / model, seed=seed)


def make_trainer(folder: Path, train: dict | None = None, **lora) -> ContrastiveTrainer:
    settings = {"steps": 10, "global_batch_pairs": 8, "chunk_pairs": 2, "precision": "fp32", "learning_rate": 1e-2}
    return ContrastiveTrainer(make_encoder(folder, **lora), TrainConfig(**settings | (train or {})), seed=5)


def batch(folder: Path, step: int) -> PairBatch:
    store = TokenStore.open(folder / "store")
    return build_batch(tiny_corpus.make_sampler(store, 8, strategy="x-x", hard_negatives=1).batch(step), store)


def trained(trainer: ContrastiveTrainer, folder: Path, first: int, last: int) -> list[float]:
    return [trainer.step(step, [batch(folder, step)]).loss for step in range(first, last)]


def test_an_adapter_adds_alpha_over_rank_times_b_a_x_to_its_layer(folder):
    encoder = make_encoder(folder, rank=2, alpha=6)
    layer = encoder[0].model.encoder.layer[0].attention.self.query
    a, b = torch.randn(2, 16), torch.randn(16, 2)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b)
    x = torch.randn(3, 16)
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 3.0 * (x @ a.T) @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_untrained_adapters_of_query_and_value_change_no_vector(folder):
    encoder, plain = make_encoder(folder), tiny_corpus.make_encoder(folder / "encoder")
    assert is_packed(encoder)
    assert np.array_equal(TextEmbedder(encoder).passages(TEXTS), TextEmbedder(plain).passages(TEXTS))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter_weights(encoder)}
    assert adapted == {"query", "value"}
    assert {weight.numel() for weight in adapter_weights(encoder).values()} == {8 * 16}


def test_a_head_that_is_trained_with_adapters_is_saved_with_them(folder):
    """As in masked language modelling: a resumed pretraining had the initial head."""
    encoder, head = make_encoder(folder), torch.nn.Linear(2, 3)
    saved = adapter_weights(torch.nn.ModuleDict({"encoder": encoder, "head": head}))
    assert {name for name in saved if ".lora_" not in name} == {"head.weight", "head.bias"}


def test_adapters_are_a_function_of_the_seed(folder):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([w.flatten() for w in adapter_weights(make_encoder(folder, seed)).values()])

    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = weights(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert torch.equal(weights(1), one)
    assert not torch.equal(weights(2), one)


def test_a_runs_trainer_takes_the_adapters_of_its_seed(folder):
    run = {"text": tiny_corpus.TEXT.model_dump(), "model": {"lora": {"rank": 3}}, "train": {"precision": "fp32"}}
    for seed in (1, 2):
        found = adapter_weights(
            build_contrastive_trainer(build_config({**run, "seed": seed}), folder / "encoder", "cpu").encoder
        )
        for name, weight in adapter_weights(make_encoder(folder, seed, rank=3)).items():
            assert torch.equal(found[name], weight)


def test_adapters_and_nothing_else_are_trained(folder):
    trainer = make_trainer(folder, targets=("query", "output.dense"))
    before = {name: weight.clone() for name, weight in trainer.encoder.state_dict().items()}
    losses = trained(trainer, folder, 0, 3)
    changed = {name for name, weight in trainer.encoder.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == set(adapter_weights(trainer.encoder))
    optimized = {p for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {p for name, p in trainer.encoder.named_parameters() if name in changed}
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_adapters_gradient_follows_from_that_of_the_merged_weights(folder, attention, dropout):
    """Of W' = W + s B A the gradient by B is s dW' A^T, and that by A is s B^T dW'."""
    one = batch(folder, 1)
    trainer = make_trainer(folder, rank=2, alpha=4, targets=("key", "value"), attention=attention)
    for weight in adapter_weights(trainer.encoder).values():
        nn.init.normal_(weight, std=0.2)
    whole = ContrastiveTrainer(merged(trainer.encoder).requires_grad_(), trainer.train, seed=5)
    for of in (trainer, whole):
        of.model.train()
        for module in of.encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        of.backward(one)
    full = {name: p.grad for name, p in whole.encoder.named_parameters()}
    found = dict(trainer.encoder.named_parameters())
    for side in ("key", "value"):
        name = next(name for name in full if name.endswith(f"{side}.weight"))
        a, b = (found[name.replace("weight", f"lora_{which}.default.weight")] for which in "AB")
        assert torch.allclose(b.grad, 2.0 * full[name] @ a.detach().T, atol=1e-5)
        assert torch.allclose(a.grad, 2.0 * b.detach().T @ full[name], atol=1e-5)


def test_adapters_dropout_is_deterministic(folder):
    trainer = make_trainer(folder, dropout=0.5)
    layers = [module for module in trainer.encoder.modules() if isinstance(module, DeterministicDropout)]
    assert sorted(layer.p for layer in layers)[-2:] == [0.5, 0.5]  # of query and value
    assert len({layer.place for layer in layers}) == len(layers)
    losses = trained(trainer, folder, 0, 3)
    torch.manual_seed(99)
    assert trained(make_trainer(folder, dropout=0.5), folder, 0, 3) == losses
    assert trained(make_trainer(folder, dropout=0.0), folder, 0, 3) != losses


@pytest.mark.parametrize("caching", [{"gradient_caching": True}, {"gradient_checkpointing": True}], ids=str)
def test_gradient_caching_gives_the_gradient_of_the_whole_batch(folder, caching):
    results = []
    for settings in ({}, caching):
        trainer = make_trainer(folder, {"max_gradient_norm": 1e6, **settings}, dropout=0.2)
        result = trainer.step(0, [batch(folder, 3), batch(folder, 4)])
        moments = trainer.optimizer_state()
        results.append((result.loss, torch.cat([m.flatten() for name, m in moments.items() if "exp_avg/" in name])))
    (loss, gradient), (cached, of_cached) = results
    assert cached == loss
    assert (of_cached - gradient).norm() < 1e-5 * gradient.norm()


def test_bf16_trains_adapters_in_float32(folder):
    trainer, exact = make_trainer(folder, {"precision": "bf16"}), make_trainer(folder)
    losses, expected = trained(trainer, folder, 0, 3), trained(exact, folder, 0, 3)
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.1)
    assert {weight.dtype for weight in adapter_weights(trainer.encoder).values()} == {torch.float32}


# Saved


def test_checkpoint_of_adapters_resumes_bit_for_bit(folder, tmp_path):
    whole, first = make_trainer(folder, dropout=0.1), make_trainer(folder, dropout=0.1)
    losses = trained(whole, folder, 0, 10)
    assert trained(first, folder, 0, 6) == losses[:6]
    checkpoints = CheckpointManager(StoragePath.of(tmp_path))
    place = checkpoints.save(first, TrainState(6), {})
    resumed = make_trainer(folder, dropout=0.1, seed=2)  # whatever weights its adapters were made with
    assert checkpoints.load_newest(resumed) == (TrainState(6), [])
    assert trained(resumed, folder, 6, 10) == losses[6:]
    for name, weight in whole.encoder.state_dict().items():
        assert torch.equal(weight, resumed.encoder.state_dict()[name]), name
    numbers = sum(weight.numel() for weight in adapter_weights(whole.encoder).values())
    assert (place.local / WEIGHTS).stat().st_size < 4 * numbers + 2000


def test_saved_model_has_merged_adapters_and_needs_no_peft(folder, tmp_path, monkeypatch):
    trainer = make_trainer(folder, targets=("query", "key", "value", "dense"))
    trained(trainer, folder, 0, 5)
    checkpoints = CheckpointManager(StoragePath.of(tmp_path / "checkpoints"))
    checkpoints.save(trainer, TrainState(5), {})
    encoder = make_encoder(folder, targets=("query", "key", "value", "dense"))
    checkpoints.load_weights(5, encoder)
    vectors = TextEmbedder(encoder).passages(TEXTS)
    save_encoder(encoder, tmp_path / "model")
    assert np.array_equal(TextEmbedder(encoder).passages(TEXTS), vectors)  # what was saved stays as it was
    plain = tiny_corpus.make_encoder(folder / "encoder")
    assert not np.allclose(TextEmbedder(plain).passages(TEXTS), vectors, atol=1e-2)

    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert np.allclose(saved.encode_document(TEXTS), vectors, atol=1e-6)
    assert saved.state_dict().keys() == plain.state_dict().keys()
    assert not list((tmp_path / "model").rglob("*adapter*"))


def test_an_encoder_without_adapters_is_not_copied_to_be_saved(folder):
    encoder = tiny_corpus.make_encoder(folder / "encoder")
    assert merged(encoder) is encoder


# Mistakes


@pytest.mark.parametrize("target", ["quary", "ense", "attention", "word_embeddings"])
def test_target_that_is_no_linear_layer_is_refused(folder, target):
    said = rf"model\.lora\.targets '{target}' is no linear layer of the model; there are dense, key, query, value$"
    with pytest.raises(ConfigError, match=said):
        make_encoder(folder, targets=("query", target))


def test_family_without_default_targets_is_refused(folder, tmp_path):
    small = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    MPNetModel(MPNetConfig(**small)).save_pretrained(tmp_path)
    tiny_corpus.tokenizer().save_pretrained(tmp_path)
    settings = ModelConfig(lora=LoraConfig())
    with pytest.raises(
        ConfigError, match=r"no layers are usual for LoRA in a model mpnet; write .* of dense, k, o, q, v"
    ):
        load_for_training(settings, tiny_corpus.TEXT, tmp_path)
    named = ModelConfig(lora=LoraConfig(targets=("q", "v")))
    assert adapter_weights(load_for_training(named, tiny_corpus.TEXT, tmp_path))


def test_missing_peft_is_refused_with_the_way_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"model\.lora needs peft; pip install 'hbt_ray\[lora\]', or write model"):
        make_encoder(folder)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": []}], ids=str)
def test_impossible_settings_are_refused(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=rf"model\.lora\.{name} is "):
        build_config({"model": {"lora": {name: value}}})
