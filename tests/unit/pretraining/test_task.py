"""Pretraining: what is told and learned, stopped and gone on with, and left for training."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModelForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    T5Config,
    T5EncoderModel,
)

from hbt_ray.config import ModelConfig, PretrainRunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import load_tokenizer
from hbt_ray.errors import ConfigError
from hbt_ray.models.encoder import load_for_training, load_pretrained
from hbt_ray.models.packed_attention import is_packed
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.local_runner import pretrain_locally
from hbt_ray.pretraining.masking import IGNORE_INDEX
from hbt_ray.pretraining.mlm_model import load_head
from hbt_ray.pretraining.mlm_trainer import MaskedLMTrainer
from hbt_ray.pretraining.task import PretrainingTask, checked_job, pretraining_job
from hbt_ray.training.checkpoint import OPTIMIZER, STATE, WEIGHTS, CheckpointManager, step_name
from hbt_ray.training.run_dir import RunDir, run_dir_of
from tests.helpers import tiny_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

OBJECTIVES = ("mlm", "tlm", "contrastive")


@pytest.fixture(autouse=True)
def few_counted_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count how frequent tokens are in a little text."""
    monkeypatch.setattr("hbt_ray.pretraining.collate.COUNTED", 1000)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """Return a store for each objective."""
    folders = {objective: tmp_path_factory.mktemp(objective) / "store" for objective in OBJECTIVES}
    for objective, folder in folders.items():
        tiny_corpus.make_text_store(folder, tiny_corpus.pretrain_config(objective=objective))
    return folders


def job_of(config: PretrainRunConfig, stores: dict[str, Path], folder: Path) -> PretrainingTask:
    return pretraining_job(config, stores[config.pretrain.objective], run_dir_of(config, folder))


def masked_trainer(
    config: PretrainRunConfig, stores: dict[str, Path], folder: Path
) -> tuple[MaskedLMTrainer, TokenBlockBatch]:
    """Return a trainer, and its first batch."""
    job = job_of(config, stores, folder)
    [blocks] = job.batches(TokenStore.open(stores[config.pretrain.objective]), range(1))
    trainer = job.build_trainer("cpu")
    assert isinstance(trainer, MaskedLMTrainer)
    return trainer, blocks


def loss_by_transformers(
    trainer: MaskedLMTrainer, folder: Path, sequences: list[slice], blocks: TokenBlockBatch
) -> float:
    """Mean cross-entropy of masked tokens, each sequence alone, by transformers' own model with the same weights."""
    whole = AutoModelForMaskedLM.from_pretrained(folder / "initial_model")
    whole.bert.load_state_dict(trainer.encoder[0].model.state_dict(), strict=False)  # has a pooler more
    whole.load_state_dict({n: w for n, w in trainer.masked.head.state_dict().items() if n in whole.state_dict()}, False)
    whole.tie_weights()
    whole.eval()
    total, told = 0.0, 0
    for own in sequences:
        labels = torch.from_numpy(
            np.where(blocks.targets[own] == IGNORE_INDEX, -100, blocks.targets[own]).astype(np.int64)
        )
        number = int((labels != -100).sum())
        if number:
            ids = torch.from_numpy(blocks.ids[own].astype(np.int64))
            total += float(whole(input_ids=ids[None], labels=labels[None]).loss.detach()) * number
            told += number
    return total / told


@pytest.mark.parametrize(("attention", "objective"), [("packed", "mlm"), ("packed", "tlm"), ("eager", "mlm")])
def test_the_loss_is_that_of_transformers_model_on_each_text_or_without_packing_on_each_block(
    stores, tmp_path, attention, objective
):
    model = tiny_corpus.MODEL.model_copy(update={"attention": attention})
    config = tiny_corpus.pretrain_config(model=model, objective=objective)
    trainer, blocks = masked_trainer(config, stores, tmp_path)
    assert is_packed(trainer.encoder) == (attention == "packed")
    lengths = blocks.lengths if attention == "packed" else np.full(8, 32)
    ends = np.cumsum(lengths).tolist()
    sequences = [slice(end - length, end) for end, length in zip(ends, lengths.tolist(), strict=True)]
    expected = loss_by_transformers(trainer, tmp_path, sequences, blocks)
    assert trainer.validation_loss([blocks]) == pytest.approx(expected, rel=1e-5)


def test_the_head_is_tied_to_the_encoder_and_all_that_tells_tokens_is_trained(stores, tmp_path):
    trainer, blocks = masked_trainer(tiny_corpus.pretrain_config(), stores, tmp_path)
    words = trainer.encoder[0].model.get_input_embeddings().weight
    assert trainer.masked.head.get_output_embeddings().weight is words
    frozen = {name for name, p in trainer.masked.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.masked.named_parameters() if ".pooler." in name}
    before = {name: p.detach().clone() for name, p in trainer.masked.named_parameters()}
    trainer.step(0, [blocks])
    moved = {name for name, p in trainer.masked.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - frozen


def test_chunks_add_up_to_the_gradient_of_the_whole_batch(stores, tmp_path):
    found = []
    model = tiny_corpus.MODEL.model_copy(update={"dropout": 0.0})
    for chunk_blocks in (2, 8):
        trainer, blocks = masked_trainer(
            tiny_corpus.pretrain_config(model=model, chunk_blocks=chunk_blocks), stores, tmp_path
        )
        trainer.model.train()
        loss = trainer.backward(blocks)
        gradient = torch.cat([p.grad.flatten() for p in trainer.masked.parameters() if p.grad is not None])
        found.append((float(loss), gradient))
    (one, of_one), (other, of_other) = found
    assert one == pytest.approx(other, rel=1e-6)
    assert (of_one - of_other).norm() < 1e-5 * of_other.norm()


def test_dropout_is_a_chunks_own_whatever_its_rank_holds_beside_it(stores, tmp_path):
    trainer, blocks = masked_trainer(tiny_corpus.pretrain_config(), stores, tmp_path)
    trainer.model.train()
    chunks = trainer.masked.chunks(blocks)
    assert [(chunk.start, chunk.end, chunk.number) for chunk in chunks] == [(0, 2, 0), (2, 4, 1), (4, 6, 2), (6, 8, 3)]
    alone = [float(trainer.masked(blocks, chunk).detach()) for chunk in reversed(chunks)][::-1]
    assert alone == [float(trainer.masked(blocks, chunk).detach()) for chunk in chunks]
    later = dataclasses.replace(blocks, step=1)
    assert float(trainer.masked(later, chunks[0]).detach()) != alone[0]


def test_a_head_that_was_saved_with_its_encoder_is_found_in_another_family(tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=300, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=40)
    saved = DistilBertForMaskedLM(config).eval()
    saved.save_pretrained(tmp_path)
    tiny_corpus.tokenizer().save_pretrained(tmp_path)
    encoder = load_pretrained(str(tmp_path)).eval()
    counts = np.arange(300)  # which a head that knows better does not need
    head = load_head(tmp_path, encoder, seed=5, trust_remote_code=False, token_counts=counts)
    ids = torch.arange(7, 27)[None]
    states = encoder[0]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["token_embeddings"]
    scores = head(inputs_embeds=states).logits
    assert torch.allclose(scores, saved(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("objective", ["mlm", "tlm"])
def test_a_new_head_begins_with_each_tokens_share_of_the_text_as_its_guess(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective)
    job = job_of(config, stores, tmp_path)
    steps = -(-1000 // (config.pretrain.global_batch_blocks * config.pretrain.block_tokens))
    text = [
        np.where(blocks.targets == IGNORE_INDEX, blocks.ids, blocks.targets)
        for blocks in job.batches(TokenStore.open(stores[objective]), range(steps))
    ]
    counts = dict.fromkeys(range(job.rules.num_tokens), 0)
    for token in np.concatenate(text).tolist():
        counts[token] += token not in job.rules.special_ids
    total = sum(counts.values()) + len(counts) / 2
    bias = job.build_trainer("cpu").masked.head.get_output_embeddings().bias
    expected = [math.log((count + 0.5) / total) for count in counts.values()]
    assert bias.tolist() == pytest.approx(expected, rel=1e-6)
    assert max(expected) > math.log(0.01) > math.log(1 / 300) > min(expected)


# Learning


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_held_out_text_is_told_better_in_every_language_and_the_result_is_an_encoder(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective, steps=40, learning_rate=1e-2)
    folder = run_dir_of(config, tmp_path / "run")
    reported: dict[int, dict[str, float]] = {}
    found = pretrain_locally(
        config, stores[objective], folder, on_metrics=lambda step, m: reported.setdefault(step, {}).update(m)
    )
    assert found.keys() == set(tiny_corpus.LANGUAGES)
    assert all(values["after"] < 0.8 * values["before"] for values in found.values())
    name = "held_out_loss" if objective == "contrastive" else "perplexity"
    assert json.loads((folder.path / f"{name}.json").read_text()) == found
    for moment, step in (("before", 0), ("after", 40)):
        assert {f"{name}/{language}": found[language][moment] for language in found}.items() <= reported[step].items()
    if objective != "contrastive":  # before, it knows how frequent each of the 300 tokens is, and no more
        assert all(values["before"] < 300 for values in found.values())
    assert sorted(step for step in reported if "train/loss" in reported[step]) == list(range(1, 41))

    model = SentenceTransformer(str(folder.model), device="cpu")
    assert model.encode(["de what is a1"]).shape == (1, 16)
    trained = load_for_training(ModelConfig(path=str(folder.model)), tiny_corpus.TEXT, folder.model)
    assert is_packed(trained)
    tokenizer = load_tokenizer(ModelConfig(path=str(folder.model)))
    assert tokenizer.get_vocab() == tiny_corpus.tokenizer().get_vocab()
    assert tokenizer.model_max_length == 32  # as many as it was pretrained on, and more than text.* asks for


def test_perplexity_is_that_of_the_first_held_out_blocks_and_the_same_every_time(stores, tmp_path):
    config = tiny_corpus.pretrain_config(held_out_blocks=2)
    job = job_of(config, stores, tmp_path)
    store = TokenStore.open(stores["mlm"])
    folder = run_dir_of(config, tmp_path)
    one = job.measure(store, folder.checkpoints, 0, "cpu")
    assert one == job.measure(store, folder.checkpoints, 0, "cpu")
    other = dataclasses.replace(job, config=config.model_copy(update={"languages": ("de",), "seed": 9}))
    assert other.measure(store, folder.checkpoints, 0, "cpu").keys() == {"perplexity/de"}
    more = job_of(tiny_corpus.pretrain_config(held_out_blocks=64), stores, tmp_path)
    assert more.measure(store, folder.checkpoints, 0, "cpu") != one


# Stopping and going on


class Stopped(Exception):
    pass


def kept_of(folder: RunDir, step: int) -> tuple[dict[str, bytes], str]:
    """Every bit of the weights and moments of a checkpoint, and its progress.

    Not the files' bytes: safetensors names tensors that share their values in no fixed order.
    """
    place = (folder.checkpoints / step_name(step)).local
    tensors = load_file(place / WEIGHTS) | load_file(place / OPTIMIZER)
    return {name: values.numpy().tobytes() for name, values in tensors.items()}, (place / STATE).read_text()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stopped_pretraining_ends_like_one_that_was_not_bit_for_bit(stores, tmp_path, objective):
    config = tiny_corpus.pretrain_config(objective=objective, steps=8, checkpoint_every=3)
    whole, stopped = (run_dir_of(config, tmp_path / name) for name in ("whole", "stopped"))
    expected = pretrain_locally(config, stores[objective], whole)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain_locally(config, stores[objective], stopped, on_metrics=stop)
    assert CheckpointManager(stopped.checkpoints).steps() == [3]
    torch.manual_seed(999)  # what was drawn in between does not matter
    assert pretrain_locally(config, stores[objective], stopped) == expected
    assert kept_of(whole, 8) == kept_of(stopped, 8)
    assert (whole.model / "model.safetensors").read_bytes() == (stopped.model / "model.safetensors").read_bytes()
    assert pretrain_locally(config, stores[objective], stopped) == expected  # it has ended: nothing changes


def test_checkpoints_are_measured_when_that_is_due(stores, tmp_path):
    config = tiny_corpus.pretrain_config(steps=6, evaluate_every=2, validation_every=3)
    measured: dict[int, set[str]] = {}
    pretrain_locally(
        config,
        stores["mlm"],
        run_dir_of(config, tmp_path),
        on_metrics=lambda step, m: measured.setdefault(step, set()).update(m),
    )
    assert [step for step in sorted(measured) if "perplexity/de" in measured[step]] == [0, 2, 4, 6]
    assert [step for step in sorted(measured) if "validation/loss" in measured[step]] == [3, 6]


def test_a_language_subset_starts_from_the_tokenizer_and_weights_of_all(stores, tmp_path):
    models = []
    for languages in (None, ["de"]):
        config = tiny_corpus.pretrain_config(languages=languages)
        folder = run_dir_of(config, tmp_path / str(languages))
        job = pretraining_job(config, stores["mlm"], folder)
        head = {
            name: weight.clone() for name, weight in job.build_trainer("cpu").checkpointed_module.state_dict().items()
        }
        models.append(
            [(folder.initial_model / n).read_bytes() for n in ("model.safetensors", "tokenizer.json")] + [head]
        )
    (*files, head), (*other_files, other_head) = models
    assert files == other_files
    assert head.keys() == other_head.keys()
    assert all(torch.equal(weight, other_head[name]) for name, weight in head.items())
    assert config.prepare_inputs == tiny_corpus.pretrain_config().prepare_inputs  # so the store is the same


# Refusals


def check(config: PretrainRunConfig, tokenizer, stores: dict[str, Path]) -> None:
    checked_job(config, tokenizer, TokenStore.open(stores["mlm"]).manifest)


def test_an_encoder_of_a_family_without_a_head_is_refused(stores, tmp_path):
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


def test_blocks_longer_than_the_model_takes_are_refused(stores, tmp_path):
    DistilBertConfig().save_pretrained(tmp_path)
    tokenizer = tiny_corpus.tokenizer()
    tokenizer.model_max_length = 24
    with pytest.raises(ConfigError, match=r"is 32, and the model takes 24 at most; write pretrain.block_tokens=24"):
        check(tiny_corpus.pretrain_config(model={"path": str(tmp_path)}), tokenizer, stores)


def test_a_language_without_held_out_text_is_refused(tmp_path):
    config = tiny_corpus.pretrain_config()
    store = tiny_corpus.make_text_store(tmp_path, config, held_out=0)
    with pytest.raises(ConfigError, match=r"too little text in 'de' is held out.*raise prepare.validation_share"):
        checked_job(config, tiny_corpus.tokenizer(), store.manifest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "contrastive", "model": {"dropout": 0}}, r"by dropout only; write model\.dropout=0\.1"),
        ({"objective": "contrastive", "global_batch_blocks": 1, "chunk_blocks": 1}, "global_batch_blocks=2 or more"),
        ({"workers": 3}, "global_batch_blocks 8 is not divisible by workers 3; write 6 or 9"),
        ({"workers": 2, "chunk_blocks": 3}, "a worker's 4 blocks are not whole chunks of chunk_blocks 3"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_corpus.pretrain_config(**settings)
