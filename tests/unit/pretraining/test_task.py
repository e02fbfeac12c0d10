"""Tasks of pretraining, and checks of their configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    DistilBertConfig,
    T5Config,
    T5EncoderModel,
)

from hbt_ray.config import LoraConfig, PretrainRunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError, TrainingDiverged
from hbt_ray.models.lora import adapter_weights
from hbt_ray.pretraining.task import SimCSETask, check_pretraining, make_pretraining_task, pretraining_sampler
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.local_runner import LocalCallbacks, run_remaining_steps
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.training.task import ignore_metrics
from hbt_ray.training.train_state import TrainState
from tests.helpers import model_folders, open_bases, tiny_corpus
from tests.unit.pretraining.conftest import OBJECTIVES

pytestmark = pytest.mark.usefixtures("one_thread")


def check(config: PretrainRunConfig, tokenizer, stores: dict[str, Path]) -> None:
    check_pretraining(config, tokenizer, TokenStore.open(stores["mlm"]).manifest)


def test_languages_do_not_change_the_tokenizer_and_first_weights(stores, tmp_path):
    models = []
    for languages in (None, ["de"]):
        config = tiny_corpus.pretrain_config(languages=languages)
        folder = run_dir_of(config, tmp_path / str(languages))
        task = make_pretraining_task(config, stores["mlm"], folder)
        head = {
            name: weight.clone() for name, weight in task.build_trainer("cpu").checkpointed_module.state_dict().items()
        }
        models.append(
            [(folder.initial_model / n).read_bytes() for n in ("model.safetensors", "tokenizer.json")] + [head]
        )
    (*files, head), (*other_files, other_head) = models
    assert files == other_files
    assert head.keys() == other_head.keys()
    assert all(torch.equal(weight, other_head[name]) for name, weight in head.items())
    one, other = (replace(every.prepare_inputs, languages=None) for every in (config, tiny_corpus.pretrain_config()))
    assert one == other  # so both use one store: its content does not depend on languages


def test_language_that_is_left_out_may_be_shorter_than_a_block(tmp_path):
    config = tiny_corpus.pretrain_config(languages=["de", "en"], block_tokens=64)
    store = tiny_corpus.make_text_store(tmp_path / "store", config, french=4)
    with pytest.raises(ConfigError, match=r"^fr has \d+ tokens to pretrain on, less than a block of 64"):
        pretraining_sampler(config.model_copy(update={"languages": None}), store.manifest)
    task = make_pretraining_task(config, tmp_path / "store", run_dir_of(config, tmp_path / "run"))
    [blocks] = task.batches(store, range(1))
    assert blocks.num_blocks == 8


@pytest.mark.parametrize("objective", ["mlm", "contrastive"])
def test_first_adapters_follow_from_the_seed(stores, tmp_path, objective):
    found = []
    for seed in (1, 1, 2):
        model = tiny_corpus.MODEL.model_copy(update={"lora": LoraConfig(rank=2)})
        config = tiny_corpus.pretrain_config(objective=objective, model=model, seed=seed)
        task = make_pretraining_task(config, stores[objective], run_dir_of(config, tmp_path / f"{len(found)}"))
        weights = adapter_weights(task.build_trainer("cpu").checkpointed_module)
        found.append(torch.cat([weight.flatten() for name, weight in weights.items() if ".lora_A" in name]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_encoder_of_a_family_without_a_head_is_an_error(stores, tmp_path):
    T5EncoderModel(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    config = tiny_corpus.pretrain_config(model={"path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"no masked-language-model head.* family t5; .*objective=contrastive"):
        check(config, tiny_corpus.tokenizer(), stores)
    check(
        tiny_corpus.pretrain_config(model={"path": str(tmp_path)}, objective="contrastive"),
        tiny_corpus.tokenizer(),
        stores,
    )


def test_encoder_with_a_decoder_is_an_error(stores, tmp_path):
    BartConfig(vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path)
    config = tiny_corpus.pretrain_config(model={"path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"family bart, whose head reads a decoder.*objective=contrastive"):
        check(config, tiny_corpus.tokenizer(), stores)


def test_trusted_code_without_a_head_is_an_error(stores, tmp_path):
    path = model_folders.write_with_code(tmp_path / "model")
    config = tiny_corpus.pretrain_config(model={"path": str(path), "trust_remote_code": True})
    with pytest.raises(ConfigError, match=r"no masked-language-model head.*objective=contrastive"):
        check(config, tiny_corpus.tokenizer(), stores)


def test_contrastive_pretraining_of_a_model_without_dropout_is_an_error(tmp_path):
    path = open_bases.PUBLISHED["gte-modernbert"](tmp_path / "model")
    for dropout in (None, 0.1):
        config = tiny_corpus.pretrain_config(objective="contrastive", model={"path": str(path), "dropout": dropout})
        task = SimCSETask(config, str(path))
        if dropout is None:
            with pytest.raises(ConfigError, match=r"and the model has none; write model\.dropout=0\.1"):
                task.build_trainer("cpu")
        else:
            task.build_trainer("cpu")


def test_blocks_longer_than_the_model_accepts_are_an_error(stores, tmp_path):
    DistilBertConfig().save_pretrained(tmp_path)
    tokenizer = tiny_corpus.tokenizer()
    tokenizer.model_max_length = 24
    with pytest.raises(ConfigError, match=r"is 32, and the model takes 24 at most; write pretrain.block_tokens=24"):
        check(tiny_corpus.pretrain_config(model={"path": str(tmp_path)}), tokenizer, stores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "contrastive", "model": {"dropout": 0}}, r"by dropout only; write model\.dropout=0\.1"),
        ({"objective": "contrastive", "global_batch_blocks": 1, "chunk_blocks": 1}, "global_batch_blocks=2 or more"),
        ({"workers": 3}, "global_batch_blocks 8 is not divisible by workers 3; write 6 or 9"),
        ({"workers": 2, "chunk_blocks": 3}, "a worker's 4 blocks are not whole chunks of chunk_blocks 3"),
    ],
)
def test_contradictory_settings_are_errors_with_the_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_corpus.pretrain_config(**settings)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretraining_that_diverges_names_its_own_settings(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective, non_finite_allowed=0)
    folder = run_dir_of(config, tmp_path / "run")
    task = make_pretraining_task(config, stores[objective], folder)
    trainer = task.build_trainer("cpu")
    with torch.no_grad():
        next(trainer.encoder.parameters()).fill_(torch.nan)
    store, checkpoints = TokenStore.open(stores[objective]), CheckpointManager(folder.checkpoints)
    with pytest.raises(TrainingDiverged, match=r"lower pretrain.learning_rate, write pretrain.precision=fp32"):
        run_remaining_steps(LocalCallbacks(task, store, trainer, checkpoints, ignore_metrics), TrainState())
