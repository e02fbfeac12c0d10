"""Encode sequences as one long row without padding.

All layers but attention work token by token, so they need no change. transformers calls attention, and makes masks, by
the name in an encoder's configuration. So one function serves all families that call it and take positions, which begin
anew in each sequence.

A row is filled up to a multiple of ROW tokens, so that matrix products have few different shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hbt_ray.data.model_files import first_position
from hbt_ray.models.attention_kernels import attend
from hbt_ray.models.attention_pattern import AttentionPattern, make_pattern
from hbt_ray.models.deterministic_dropout import attention_dropout
from hbt_ray.models.packing import Packing

NAME = "hbt_packed"  # in transformers' registry of attention functions
ROW = 64  # tokens; the length of a row is a multiple of it

# Families whose packed vectors and gradients are those of padded batches, which tests compare. Others are padded: some
# attend by the distance of rows (MPNet, T5, DeBERTa) or mix tokens outside of attention (convolutions, states).
FAMILIES = {
    *("albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "eurobert", "gte"),
    *("jina_embeddings_v3", "modernbert", "nomic_bert", "roberta", "roberta-prelayernorm", "ultrabert"),
    *("xlm-roberta", "xlm-roberta-xl"),
    *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"),
}


def transformer_of(encoder: SentenceTransformer) -> Any:
    """Return the transformers model of an encoder, or None if its first module is something else."""
    return getattr(encoder[0], "model", None)


def can_pack(encoder: SentenceTransformer) -> bool:
    """Return True if an encoder's model is of a family that packed attention supports."""
    config = getattr(transformer_of(encoder), "config", None)
    return getattr(config, "model_type", None) in FAMILIES and not getattr(config, "is_decoder", False)


def is_packed(encoder: SentenceTransformer) -> bool:
    """Return True if an encoder uses packed attention."""
    config = getattr(transformer_of(encoder), "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


def packed_vectors(
    encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray, embeddings: Tensor | None = None
) -> Tensor:
    """Encode sequences without padding.

    Args:
        encoder: a packed encoder.
        ids: (tokens,) of all sequences, concatenated.
        lengths: (N,) tokens of each.
        embeddings: (tokens, E) word embeddings of `ids`, if they have been looked up already.

    Returns:
        (N, D) embeddings.
    """
    features = _features(encoder, ids, lengths, embeddings)
    vectors: Tensor = encoder(features)["sentence_embedding"]
    return vectors[: len(lengths)]


def packed_tokens(encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Return the (tokens, D) last hidden states of a packed encoder; see `packed_vectors`."""
    states: Tensor = encoder[0](_features(encoder, ids, lengths))["token_embeddings"]
    return states[0, : len(ids)]


def _features(
    encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray, embeddings: Tensor | None = None
) -> dict[str, Tensor | Packing]:
    """Return the input of an encoder's modules: one long row."""
    config = transformer_of(encoder).config
    device = encoder.device
    first = first_position(config)
    positions = first + np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    fill = -len(ids) % ROW
    packing = Packing(lengths, device, fill)
    features: dict[str, Tensor | Packing] = {
        "position_ids": torch.from_numpy(np.pad(positions, (0, fill), constant_values=first))[None].to(device),
        "packing": packing,
        # sentence-transformers' pooling recognizes concatenated sequences by this name.
        "cu_seq_lens_q": torch.from_numpy(np.cumsum(np.append(0, packing.lengths))).to(device),
    }
    if embeddings is None:
        features["input_ids"] = torch.from_numpy(np.pad(ids.astype(np.int64), (0, fill)))[None].to(device)
    else:
        features["inputs_embeds"] = nn.functional.pad(embeddings, (0, 0, 0, fill))[None]
    return features


def word_embeddings(encoder: SentenceTransformer, ids: np.ndarray) -> Tensor:
    """Look up the (tokens, E) word embeddings of (tokens,) ids."""
    table: nn.Module = transformer_of(encoder).get_input_embeddings()
    embeddings: Tensor = table(torch.from_numpy(ids.astype(np.int64)).to(encoder.device))
    return embeddings


def register_packed_attention() -> None:
    """Register packed attention in transformers' process-wide registry. A second call does nothing.

    A process must call this before an encoder is switched to it; `encoder.load_pretrained` does. An encoder that is
    pickled or copied keeps only the name, so a process that receives one must call this too.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, make_pattern)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | AttentionPattern | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    packing: Packing | None = None,
    **others: object,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with the signature that transformers expects.

    Args:
        module: the attention layer; its dropout is used.
        query: (1, H, tokens, d).
        key: (1, K, tokens, d), as `value`.
        value: see `key`.
        attention_mask: from `make_pattern`.
        dropout: probability; 0 in evaluation.
        scaling: of scores; None: 1 / sqrt(d).
        softcap: of scores; see `attend`.
        packing: the layout of the row; None: the sequences are padded, and torch's attention is used.
        others: are passed to torch's attention.

    Returns:
        (1, tokens, H, d), and None for the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packing is None:
        mask = attention_mask.padded() if isinstance(attention_mask, AttentionPattern) else attention_mask
        if softcap is not None:
            return _padded_and_capped(module, query, key, value, mask, scale, softcap, dropout), None
        attend_padded = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend_padded(module, query, key, value, mask, dropout=dropout, scaling=scaling, **others)
    assert not isinstance(attention_mask, Tensor), "a packed row has no padding"
    device_type = query.device.type
    if torch.is_autocast_enabled(device_type):  # positions that rotate queries and keys make them float32
        query, key, value = (states.to(torch.get_autocast_dtype(device_type)) for states in (query, key, value))
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    attended = attend(
        query,
        key,
        value,
        packing,
        scale=scale,
        pattern=attention_mask,
        softcap=softcap,
        dropout=attention_dropout(module) if dropout else None,
    )
    return attended[None], None


def _padded_and_capped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scale: float,
    softcap: float,
    dropout: float,
) -> Tensor:
    """Compute attention of padded sequences with capped scores, which torch's attention does not."""
    per_key = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(per_key, 1), value.repeat_interleave(per_key, 1)
    scores = (query @ key.transpose(2, 3) * (scale / softcap)).tanh() * softcap
    if attention_mask is None and getattr(
        module, "is_causal", False
    ):  # transformers leaves it out if nothing is padded
        attention_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.dropout(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2)
