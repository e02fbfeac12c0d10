"""Sequences packed one after the other get the vectors and gradients that padding gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    CamembertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from hbt_ray.config import ModelConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models.deterministic_dropout import DeterministicDropout, DropoutKey
from hbt_ray.models.encoder import load_for_training, load_pretrained, save_encoder
from hbt_ray.models.packed_attention import (
    MIN_STEP,
    NAME,
    Packing,
    attention_by_sdpa,
    can_pack,
    is_packed,
    packed_attention,
    packed_vectors,
    word_embeddings,
)
from hbt_ray.models.padding import pad
from hbt_ray.models.text_embedder import TextEmbedder
from tests.helpers import tiny_corpus

FAMILIES = {
    "bert": BertConfig,
    "electra": ElectraConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
}
LENGTHS = np.array([3, 12, 7, 12, 1, 11, 20])
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Path:
    """Return the folder of a model of a family, untrained."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    tokenizer = tiny_corpus.tokenizer()
    config = FAMILIES[request.param](
        vocab_size=len(tokenizer),
        hidden_size=16,
        embedding_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    model = AutoModel.from_config(config)
    for parameter in model.parameters():  # as made, attention is nearly uniform and would hide a mistake
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(folder: Path, attention: str, pooling: str = "mean") -> SentenceTransformer:
    config = ModelConfig(attention=attention, dropout=0.0)  # type: ignore[arg-type]
    loaded = load_for_training(config, tiny_corpus.TEXT, folder)
    return SentenceTransformer(modules=[loaded[0], Pooling(16, pooling), Normalize()], device="cpu").eval()


def ids_of(lengths: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 200, int(lengths.sum()))


def padded_vectors(of: SentenceTransformer, lengths: np.ndarray) -> torch.Tensor:
    ids, mask = pad(ids_of(lengths), lengths, 0)
    features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if of[0].model.config.model_type not in ("bert", "electra"):
        places = np.arange(ids.shape[1]) + of[0].model.config.pad_token_id + 1
        features["position_ids"] = torch.from_numpy(places)[None].expand(ids.shape)
    return of(features)["sentence_embedding"]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_packed_vectors_and_gradients_equal_padded_ones(family, pooling):
    packed, padded = encoder(family, "packed", pooling), encoder(family, "eager", pooling)
    assert is_packed(packed)
    assert not is_packed(padded)
    found = packed_vectors(packed, ids_of(LENGTHS), LENGTHS)
    expected = padded_vectors(padded, LENGTHS)
    assert torch.allclose(found, expected, atol=1e-5)
    towards = torch.from_numpy(np.random.default_rng(1).standard_normal(found.shape, np.float32))
    for vectors in (found, expected):
        (vectors * towards).sum().backward()
    for (name, one), (_, other) in zip(packed.named_parameters(), padded.named_parameters(), strict=True):
        if other.grad is not None and not name.endswith("key.bias"):  # which no softmax feels
            assert (one.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, name


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


def test_groups_have_few_shapes_whatever_the_lengths():
    random = np.random.default_rng(0)
    shapes = set()
    for _ in range(50):
        packing = Packing(random.integers(1, 513, 64), 2, CPU)
        shapes |= {(group.sequences, group.longest) for group in packing.groups}
    assert {longest for _, longest in shapes} <= {*range(16, 257, 16), *range(288, 513, 32)}
    assert {size for size, _ in shapes} <= {1, 2, 4, 8, 16}


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


def test_auto_packs_what_can_be_packed_and_pads_the_rest(family, tmp_path):
    assert is_packed(encoder(family, "auto"))
    assert can_pack(encoder(family, "eager"))
    small = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = AutoModel.from_config(MPNetConfig(**small))  # attends by relative positions, of padded texts
    other.save_pretrained(tmp_path)
    tiny_corpus.tokenizer().save_pretrained(tmp_path)
    assert not is_packed(encoder(tmp_path, "auto"))
    with pytest.raises(ConfigError, match=r"write model\.attention=auto"):
        encoder(tmp_path, "packed")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 3))
def test_every_token_of_every_head_is_read_and_written_once(lengths, heads):
    packing = Packing(np.array(lengths), heads, CPU)
    rows = sum(lengths) * heads
    written = torch.cat([group.write for group in packing.groups])
    assert sorted(row for row in written.tolist() if row < rows) == list(range(rows))
    for group in packing.groups:
        ended = torch.zeros_like(group.read, dtype=torch.bool) if group.ended is None else group.ended
        assert torch.equal(group.read[~ended], group.write[~ended])
        assert (group.write[ended] >= rows).all()
        assert group.sequences.bit_count() == 1
        assert int(ended.sum()) <= group.sequences * heads * (MIN_STEP - 1)


def states(lengths: np.ndarray, heads: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    random = np.random.default_rng(3)
    made = [torch.from_numpy(random.standard_normal((int(lengths.sum()) * heads, width))) for _ in range(3)]
    return [of.to(dtype).requires_grad_() for of in made]


class _Layer(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        key = DropoutKey()
        key.set(CPU, 1, "test")
        self.dropout = DeterministicDropout(p, key, 0)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, p: float) -> torch.Tensor:
    """Through the function that transformers calls."""
    shaped = [of.view(packing.tokens, packing.heads, -1).transpose(0, 1)[None] for of in (query, key, value)]
    attended, _ = packed_attention(_Layer(p), *shaped, None, dropout=p, packing=packing)
    return attended


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_written_out_gradient_equals_finite_differences(p):
    lengths = np.array([2, 4, 4, 1])
    packing = Packing(lengths, 2, CPU)
    own = states(lengths, 2, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, packing, p), own)


def test_written_out_attention_equals_torchs():
    packing = Packing(LENGTHS, 2, CPU)
    own = states(LENGTHS, 2, 4, torch.float64)
    found, expected = attend(*own, packing, 0.0), attention_by_sdpa(*own, packing, 0.5, 0.0)
    assert torch.allclose(found.reshape(expected.shape), expected, atol=1e-12)
    gradients = [torch.autograd.grad((of**2).sum(), own) for of in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_long_sequences_use_torchs_attention(monkeypatch):
    packing = Packing(LENGTHS, 2, CPU)
    own = states(LENGTHS, 2, 4, torch.float64)
    expected = attend(*own, packing, 0.0)
    monkeypatch.setattr("hbt_ray.models.packed_attention.MAX_WRITTEN_OUT_TOKENS", 19)
    monkeypatch.setattr("hbt_ray.models.packed_attention._WrittenOutAttention", None)
    assert torch.allclose(attend(*own, packing, 0.0), expected, atol=1e-12)


def test_dropout_of_attention_leaves_the_mean_where_it_is():
    lengths = np.array([30] * 40)
    packing = Packing(lengths, 2, CPU)
    query, key, _ = states(lengths, 2, 4, torch.float32)
    value = torch.ones_like(query)
    dropped = attend(query, key, value, packing, 0.4)
    assert dropped.std() > 0.05
    assert float(dropped.detach().mean()) == pytest.approx(1.0, abs=0.01)
