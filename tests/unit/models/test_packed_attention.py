"""Sequences packed one after the other get the vectors and gradients that padding gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from hbt_ray.config import ModelConfig
from hbt_ray.data.model_files import first_position
from hbt_ray.errors import ConfigError
from hbt_ray.models.deterministic_dropout import DeterministicDropout, key_dropout
from hbt_ray.models.encoder import load_for_training, load_pretrained, save_encoder
from hbt_ray.models.packed_attention import FAMILIES, NAME, can_pack, is_packed, packed_vectors, word_embeddings
from hbt_ray.models.padding import pad
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import open_bases, tiny_corpus

KEY_BIASES = ("key.bias", "k_proj.bias", "k_lin.bias")  # which no softmax feels
LENGTHS = np.array([3, 12, 7, 12, 1, 30, 20])
WINDOWS = {"sliding_window": 4, "local_attention": 8}  # to which families that have none are indifferent
# Families with a few heads of keys, each for several heads of queries.
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
SETTINGS = {
    "gemma3_text, bidirectional": {"use_bidirectional_attention": True, "layer_types": open_bases.SLIDING},
    "gemma2, bidirectional": {"use_bidirectional_attention": True},
    "qwen3, bidirectional": {"is_causal": False},
    "qwen2, sliding": {"use_sliding_window": True, "max_window_layers": 2},
}
GROUPING = {
    *("eurobert", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"),
    *("smollm3", "ultrabert"),
}


def write_family(folder: Path, name: str) -> Path:
    """Write an untrained model of a family."""
    family = name.partition(",")[0]
    settings = (GROUPED if family in GROUPING else {}) | SETTINGS.get(name, {})
    return open_bases.write_base(folder, family, type_vocab_size=1, embedding_size=16, **WINDOWS | settings)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert", "qwen3"])
def family(request, tmp_path_factory) -> Path:
    return write_family(tmp_path_factory.mktemp("family"), request.param)


def encoder(folder: Path, attention: str, pooling: str = "mean") -> SentenceTransformer:
    config = ModelConfig(attention=attention, dropout=0.0)  # type: ignore[arg-type]
    loaded = load_for_training(config, tiny_corpus.TEXT, folder)
    return SentenceTransformer(
        modules=[loaded[0], Pooling(open_bases.WIDTH, pooling), Normalize()], device="cpu"
    ).eval()


def ids_of(lengths: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 200, int(lengths.sum()))


def padded_vectors(of: SentenceTransformer, lengths: np.ndarray) -> torch.Tensor:
    ids, mask = pad(ids_of(lengths), lengths, 0)
    features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    first = first_position(of[0].model.config)
    if first:
        places = np.arange(ids.shape[1]) + first
        features["position_ids"] = torch.from_numpy(places)[None].expand(ids.shape)
    return of(features)["sentence_embedding"]


@pytest.mark.parametrize("name", sorted([*FAMILIES, *SETTINGS]))
def test_packed_vectors_and_gradients_equal_padded_ones(name, tmp_path):
    folder = write_family(tmp_path, name)
    packed, padded = encoder(folder, "packed"), encoder(folder, "eager")
    assert is_packed(packed)
    assert not is_packed(padded)
    found = packed_vectors(packed, ids_of(LENGTHS), LENGTHS)
    expected = padded_vectors(padded, LENGTHS)
    assert torch.allclose(found, expected, atol=1e-5)
    towards = torch.from_numpy(np.random.default_rng(1).standard_normal(found.shape, np.float32))
    for vectors in (found, expected):
        (vectors * towards).sum().backward()
    for (name, one), (_, other) in zip(packed.named_parameters(), padded.named_parameters(), strict=True):
        if other.grad is not None and not name.endswith(KEY_BIASES):
            assert (one.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, name


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_packed_family_is_trained_with_dropout(name, tmp_path):
    config = ModelConfig(attention="packed", dropout=0.1)
    packed = load_for_training(config, tiny_corpus.TEXT, write_family(tmp_path, name)).train()
    key = key_dropout(packed)
    vectors = []
    for seed in (1, 1, 2):
        key.set(packed.device, seed)
        vectors.append(packed_vectors(packed, ids_of(LENGTHS), LENGTHS))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    vectors[0].square().sum().backward()


def test_layers_with_shared_weights_have_different_masks(tmp_path, monkeypatch):
    config = ModelConfig(attention="packed", dropout=0.5)
    packed = load_for_training(config, tiny_corpus.TEXT, write_family(tmp_path, "albert")).train()
    key_dropout(packed).set(packed.device, 1)
    masks: dict[int, list[bytes]] = {}
    draw = DeterministicDropout.mask

    def record(self, shape, dtype):
        kept, scale = draw(self, shape, dtype)
        masks.setdefault(self.place, []).append(kept.numpy().tobytes())
        return kept, scale

    monkeypatch.setattr(DeterministicDropout, "mask", record)
    packed_vectors(packed, ids_of(LENGTHS), LENGTHS)
    assert max(map(len, masks.values())) == 4
    assert all(len(set(of_layer)) == len(of_layer) for of_layer in masks.values())


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_poolings_of_packed_and_padded_sequences_are_equal(family, pooling):
    with torch.inference_mode():
        found = packed_vectors(encoder(family, "packed", pooling), ids_of(LENGTHS), LENGTHS)
        expected = padded_vectors(encoder(family, "eager", pooling), LENGTHS)
    assert torch.allclose(found, expected, atol=1e-5)


def test_word_embeddings_looked_up_before_give_the_same_vectors(family):
    packed = encoder(family, "packed")
    ids = ids_of(LENGTHS)
    before = packed_vectors(packed, ids, LENGTHS, word_embeddings(packed, ids))
    assert torch.equal(before, packed_vectors(packed, ids, LENGTHS))


@pytest.mark.parametrize("tokens", [63, 64, 65])
def test_filling_of_a_row_changes_no_vector(family, tokens):
    packed, lengths = encoder(family, "packed"), np.array([20, 20, tokens - 40])
    found = packed_vectors(packed, ids_of(lengths), lengths)
    assert len(found) == 3
    assert torch.allclose(found, padded_vectors(encoder(family, "eager"), lengths), atol=1e-5)


def test_a_packed_encoder_embeds_and_is_saved_like_any_other(family, tmp_path):
    packed = encoder(family, "packed")
    save_encoder(packed, tmp_path)
    texts = [tiny_corpus.passage("en", item) for item in range(5)]
    saved = SentenceTransformer(str(tmp_path), device="cpu")
    assert np.allclose(packed.encode(texts), saved.encode(texts), atol=1e-6)
    assert NAME not in (tmp_path / "config.json").read_text()


def test_texts_are_embedded_alike_packed_and_padded(family):
    texts = [
        tiny_corpus.passage(language, item) * (1 + item % 3) for language in tiny_corpus.LANGUAGES for item in range(9)
    ]
    vectors = [
        TextEmbedder(load_pretrained(str(family), attention=attention), batch_tokens=60).passages(texts)
        for attention in ("packed", "eager")
    ]
    assert np.allclose(*vectors, atol=1e-5)


def test_auto_packs_what_can_be_packed_and_pads_the_rest(family, tmp_path, caplog):
    assert is_packed(encoder(family, "auto"))
    assert can_pack(encoder(family, "eager"))
    open_bases.write_base(tmp_path, "mpnet")  # attends by relative positions, of padded texts
    with caplog.at_level("INFO", "hbt_ray.models.encoder"):
        assert not is_packed(encoder(tmp_path, "auto"))
    assert "of the family 'mpnet', which packed attention does not support, so its texts are padded" in caplog.text
    with pytest.raises(ConfigError, match=r"the family 'mpnet', .*; write model\.attention=auto"):
        encoder(tmp_path, "packed")
