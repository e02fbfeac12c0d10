"""The encoder that is trained is the one that sentence-transformers loads, whatever it is made of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn
from transformers import BertConfig, BertModel

from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.data.tokenizer import train_tokenizer
from hbt_ray.errors import ConfigError
from hbt_ray.models.encoder import (
    init_encoder,
    load_for_training,
    load_pretrained,
    open_teacher,
    save_encoder,
    set_dropout,
)
from hbt_ray.models.saved_settings import use_as_trained
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import tiny_corpus

QUESTIONS = [tiny_corpus.question(x, i) for x in tiny_corpus.LANGUAGES for i in range(4)]
PASSAGES = [tiny_corpus.passage(x, i) for x in tiny_corpus.LANGUAGES for i in range(4)]
LONG = "it is the number 3 so so so " * 20


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Return a folder without sentence-transformers' files, with a pooler that pooling does not use."""
    folder: Path = tmp_path_factory.mktemp("plain")
    torch.manual_seed(2)
    tokenizer = tiny_corpus.tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labse_like(plain, tmp_path_factory) -> Path:
    """Return a model of transformer, pooling of [CLS], a dense layer with tanh, unit length: how LaBSE is saved."""
    folder: Path = tmp_path_factory.mktemp("labse")
    torch.manual_seed(3)
    modules: list[nn.Module] = [
        Transformer(str(plain)),
        Pooling(16, "cls"),
        Dense(16, 12, activation_function=nn.Tanh()),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def hidden(encoder: SentenceTransformer, text: str) -> np.ndarray:
    """(T, D) last hidden states of one text, from the transformers model alone."""
    transformer: Any = encoder[0]
    with torch.inference_mode():
        states = transformer.auto_model(**encoder.tokenizer([text], return_tensors="pt")).last_hidden_state
    return np.asarray(states[0])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# Saved and loaded


def test_saved_encoder_has_the_same_vectors_in_sentence_transformers(tmp_path):
    encoder = tiny_corpus.make_encoder(tmp_path / "made")
    save_encoder(encoder, tmp_path / "saved")
    own = TextEmbedder(encoder)
    other = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = [*QUESTIONS, "", LONG]
    assert np.allclose(own.queries(texts), other.encode_query(texts), atol=1e-6)
    assert np.allclose(own.passages(texts), other.encode_document(texts), atol=1e-6)
    assert not np.allclose(own.queries(texts), own.passages(texts), atol=1e-3)  # the prefixes differ


def test_an_opened_encoder_brings_its_prefixes_and_lengths(tmp_path):
    tiny_corpus.make_encoder(tmp_path / "made")
    opened = load_pretrained(str(tmp_path / "made"))
    own = TextEmbedder(opened)
    assert (own.query_prefix, own.passage_prefix) == ("Query: ", "Passage: ")
    assert opened.max_seq_length == 24  # the longer of 20 and 24
    own = TextEmbedder(opened, query_prefix="", passage_prefix="p: ")
    assert (own.query_prefix, own.passage_prefix) == ("", "p: ")


def test_small_encoders_weights_are_a_function_of_its_seed():
    def weights(seed: int) -> torch.Tensor:
        encoder = init_encoder(tiny_corpus.MODEL, tiny_corpus.TEXT, tiny_corpus.tokenizer(), seed=seed)
        return torch.cat([w.flatten() for w in encoder.state_dict().values()])

    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = weights(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert torch.equal(weights(1), one)
    assert not torch.equal(weights(2), one)


def test_loading_sets_dropout_prefixes_and_lengths_of_the_run(tmp_path):
    tiny_corpus.make_encoder(tmp_path / "made")
    text = TextConfig(query_prefix="q ", passage_prefix="p ", max_query_tokens=9, max_passage_tokens=7)
    encoder = load_for_training(ModelConfig(dropout=0.25), text, tmp_path / "made")
    assert {m.p for m in encoder.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert encoder.max_seq_length == 9
    assert (encoder.prompts["query"], encoder.prompts["document"]) == ("q ", "p ")
    own = load_for_training(ModelConfig(), text, tmp_path / "made")
    assert {m.p for m in own.modules() if isinstance(m, nn.Dropout)} == {0.1}  # as the encoder's configuration says


def test_without_dropout_training_mode_equals_evaluation_mode(tmp_path):
    encoder = tiny_corpus.make_encoder(tmp_path / "made", dropout=0.5)
    features = {k: torch.tensor(v) for k, v in encoder.tokenizer(QUESTIONS[:1]).items()}

    def vectors(training: bool) -> torch.Tensor:
        return encoder.train(training)(dict(features))["sentence_embedding"].detach()

    assert not torch.equal(vectors(True), vectors(False))
    set_dropout(encoder, 0.0)
    assert torch.equal(vectors(True), vectors(False))


# Any encoder


def test_a_transformers_folder_is_pooled_as_asked_for(plain):
    text = QUESTIONS[0]
    for pooling, expected in (("cls", lambda states: states[0]), ("mean", lambda states: states.mean(0))):
        encoder = load_pretrained(str(plain), pooling)
        [vector] = TextEmbedder(encoder).queries([text])
        assert np.allclose(vector, unit(expected(hidden(encoder, text))), atol=1e-6), pooling


def test_transformers_folder_is_saved_for_sentence_transformers(plain, tmp_path):
    encoder = load_pretrained(str(plain), "cls")
    use_as_trained(encoder)
    own = TextEmbedder(encoder)
    assert (own.query_prefix, own.passage_prefix) == ("", "")
    save_encoder(encoder, tmp_path / "saved")
    other = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert [type(module) for module in other] == [Transformer, Pooling, Normalize]
    assert np.allclose(own.passages(PASSAGES), other.encode(PASSAGES), atol=1e-6)


def test_a_text_longer_than_the_encoder_takes_is_cut(plain):
    [vector] = TextEmbedder(load_pretrained(str(plain))).queries([LONG])
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-6)


def test_a_dense_layer_is_kept_through_loading_and_saving(labse_like, tmp_path):
    encoder = load_for_training(ModelConfig(pooling="mean"), tiny_corpus.TEXT, labse_like)
    save_encoder(encoder, tmp_path / "saved")
    other = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    kinds = [Transformer, Pooling, Dense, Normalize]
    assert [type(m) for m in encoder] == [type(m) for m in other] == kinds
    pooling: Any = other[1]
    assert pooling.get_config_dict()["pooling_mode"] == "cls"  # its own, not the one asked for
    for name, weight in SentenceTransformer(str(labse_like), device="cpu").state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name

    text = PASSAGES[3]
    [vector] = TextEmbedder(other).passages([text])
    dense: Any = encoder[2]
    cls = hidden(encoder, tiny_corpus.TEXT.passage_prefix + text)[0]
    expected = np.tanh(dense.linear.weight.detach().numpy() @ cls + dense.linear.bias.detach().numpy())
    assert np.allclose(vector, unit(expected), atol=1e-6)


def test_an_encoder_without_unit_length_gets_it(plain, tmp_path):
    modules: list[nn.Module] = [Transformer(str(plain)), Pooling(16, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    encoder = load_for_training(ModelConfig(), tiny_corpus.TEXT, tmp_path)
    assert [type(m) for m in encoder] == [Transformer, Pooling, Normalize]
    lengths = np.linalg.norm(encoder.encode(QUESTIONS), axis=1)
    assert np.allclose(lengths, 1, atol=1e-6)


def test_weights_saved_in_half_precision_are_opened_in_full(plain, tmp_path):
    BertModel.from_pretrained(plain).half().save_pretrained(tmp_path)
    tiny_corpus.tokenizer().save_pretrained(tmp_path)
    assert {p.dtype for p in load_pretrained(str(tmp_path)).parameters()} == {torch.float32}


@pytest.mark.parametrize("content", [None, {}, {"config.json": "{}"}, {"modules.json": "["}, {"modules.json": "[]"}])
def test_model_that_does_not_exist_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "model"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=r"the model .* cannot be loaded .*; write the folder of a saved") as told:
        load_pretrained(str(folder))
    assert repr(str(folder)) in str(told.value)
    assert "\n" not in str(told.value)


# A teacher


def test_teacher_with_another_vocabulary_is_refused(tmp_path):
    other = train_tokenizer(["something else entirely, of other words"] * 3, 300)
    save_encoder(init_encoder(tiny_corpus.MODEL, tiny_corpus.TEXT, other, seed=1), tmp_path / "other")
    encoder = tiny_corpus.make_encoder(tmp_path / "encoder")
    message = (
        r"the teacher .*other' has another vocabulary than the encoder, and cannot read its tokens; write a loss\."
    )
    with pytest.raises(ConfigError, match=message) as raised:
        open_teacher(str(tmp_path / "other"), encoder, tiny_corpus.MODEL)
    assert "\n" not in str(raised.value)


def test_teacher_that_takes_fewer_tokens_is_refused(tmp_path):
    short = tiny_corpus.TEXT.model_copy(update={"max_query_tokens": 9, "max_passage_tokens": 10})
    save_encoder(init_encoder(tiny_corpus.MODEL, short, tiny_corpus.tokenizer(), seed=1), tmp_path / "short")
    with pytest.raises(ConfigError, match=r"short' takes 10 tokens, and texts have up to 24; write text\.max_query"):
        open_teacher(str(tmp_path / "short"), tiny_corpus.make_encoder(tmp_path / "encoder"), tiny_corpus.MODEL)


# Embedding


def test_weights_that_are_no_safetensors_are_refused(plain, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(plain, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*safetensors"):
        load_pretrained(str(folder))


class Exploit:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_dense_layers_pickle_of_anything_but_tensors_is_refused(labse_like, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(labse_like, folder)
    [weights] = folder.glob("2_Dense/model.safetensors")
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    load_pretrained(str(folder))
    torch.save({"linear.weight": Exploit(tmp_path / "ran")}, weights.with_name("pytorch_model.bin"))
    with pytest.raises(ConfigError, match=r"has a pytorch_model.bin with something other than tensors") as raised:
        load_pretrained(str(folder))
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bf16", [False, True])
def test_vectors_are_float32_of_unit_length_in_the_order_of_the_texts(tmp_path, bf16):
    own = TextEmbedder(tiny_corpus.make_encoder(tmp_path / "made"), bf16=bf16, batch_tokens=40)
    texts = [*PASSAGES, LONG, "", "so"]
    vectors = own.passages(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([own.passages([text]) for text in texts])
    assert np.allclose(vectors, alone, atol=1e-6 if not bf16 else 2e-2)


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_vectors_do_not_depend_on_the_batch(tmp_path, batch_tokens):
    encoder = tiny_corpus.make_encoder(tmp_path / "made")
    expected = TextEmbedder(encoder).queries(QUESTIONS)
    assert np.allclose(TextEmbedder(encoder, batch_tokens=batch_tokens).queries(QUESTIONS), expected, atol=1e-6)


def test_no_texts_give_no_vectors(tmp_path):
    own = TextEmbedder(tiny_corpus.make_encoder(tmp_path / "made"))
    assert own.queries([]).shape == own.passages([]).shape == (0, 16)
    assert own.queries([]).dtype == np.float32


def test_embedding_uses_no_dropout_even_after_training(tmp_path):
    encoder = tiny_corpus.make_encoder(tmp_path / "made", dropout=0.5).train()
    own = TextEmbedder(encoder)
    assert np.array_equal(own.queries(QUESTIONS), own.queries(QUESTIONS))
