"""Encode sequences as one long row without padding.

All layers but attention work token by token, so they need no change. Attention is computed for groups of sequences of
nearly equal length: a group is gathered into a rectangle, which has little padding.

There are few different shapes: oneDNN generates a kernel for each new shape of a matrix product, which takes longer
than many of the products. So a row is filled up to a multiple of ROW tokens, groups have few lengths, and the number of
sequences in a group is a power of two.

flash-attn's and torch's variable-length attention are not used: neither has a CPU kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hbt_ray.models.deterministic_dropout import DeterministicDropout

NAME = "hbt_packed"  # in transformers' registry of attention functions
MAX_WRITTEN_OUT_TOKENS = 1024  # of a sequence; the (L, L) matrices of longer ones take too much memory
ROW = 64  # tokens; the length of a row is a multiple of it
MIN_STEP = 16  # tokens between the lengths of groups, up to 256; an eighth to a sixteenth of longer ones

# Families of models that accept positions as an argument and use only absolute positions. The first position is 0, or
# the one after the padding token's.
_FROM_ZERO = {"bert", "electra"}
_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert"}


def transformer_of(encoder: SentenceTransformer) -> Any:
    """Return the transformers model of an encoder, or None if its first module is something else."""
    return getattr(encoder[0], "model", None)


def can_pack(encoder: SentenceTransformer) -> bool:
    """Return True if an encoder's model is of a family that packed attention supports."""
    config = getattr(transformer_of(encoder), "config", None)
    family = getattr(config, "model_type", None)
    return family in _FROM_ZERO | _AFTER_PADDING and not getattr(config, "is_decoder", False)


def is_packed(encoder: SentenceTransformer) -> bool:
    """Return True if an encoder uses packed attention."""
    config = getattr(transformer_of(encoder), "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of nearly equal length.

    Legend: N sequences, H heads, L tokens of the longest, d width of a head. Rows are of a (tokens * H, d) matrix.
    """

    sequences: int  # N
    longest: int  # L
    read: Tensor  # (N * H * L,) rows; after a sequence's end, its first row
    write: Tensor  # (N * H * L,) rows; after a sequence's end, a row that is discarded
    ended: Tensor | None  # (N * H * L,) bool, or None if all have the same length


class Packing:
    """The layout of a packed row: which rows belong to which sequence.

    Args:
        lengths: (N,) tokens of each sequence.
        heads: number of attention heads.
        device: of the index tensors.
    """

    def __init__(self, lengths: np.ndarray, heads: int, device: torch.device) -> None:
        self.heads = heads
        self.tokens = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        self.groups = [
            _group(starts[members], lengths[members], longest, self.tokens, heads, device)
            for members, longest in _groups_of_similar_length(lengths)
        ]


def _groups_of_similar_length(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the indices of each group's sequences and their maximum length, the longest first.

    1. Round lengths up to a multiple of a step that grows with the length.
    2. Cut the sequences of equal rounded length into groups whose sizes are powers of two.
    """
    # 1. Round up
    steps = np.maximum(MIN_STEP, 2 ** np.floor(np.log2(lengths)).astype(np.int64) // 8)
    rounded = -(-lengths // steps) * steps
    # 2. Cut
    for longest in np.unique(rounded)[::-1].tolist():
        remaining = np.flatnonzero(rounded == longest)
        while len(remaining):
            size = 1 << (len(remaining).bit_length() - 1)
            yield remaining[:size], longest
            remaining = remaining[size:]


def _group(
    starts: np.ndarray, lengths: np.ndarray, longest: int, tokens: int, heads: int, device: torch.device
) -> _Group:
    positions = starts[:, None] + np.arange(longest)  # (N, L)
    ended = np.arange(longest) >= lengths[:, None]

    def rows(of_tokens: np.ndarray) -> Tensor:
        of_heads = of_tokens[:, None, :] * heads + np.arange(heads)[:, None]  # (N, H, L)
        return torch.from_numpy(of_heads.reshape(-1)).to(device)

    read = rows(np.where(ended, starts[:, None], positions))
    if not ended.any():
        return _Group(len(lengths), longest, read, read, None)
    write = rows(np.where(ended, tokens, positions))
    ended_of_heads = np.repeat(ended[:, None, :], heads, axis=1).reshape(-1)
    return _Group(len(lengths), longest, read, write, torch.from_numpy(ended_of_heads).to(device))


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
    first = config.pad_token_id + 1 if config.model_type in _AFTER_PADDING else 0
    positions = first + np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    fill = -len(ids) % ROW
    # The tokens that fill the row are one more sequence, whose embedding is discarded.
    all_lengths = np.append(lengths, fill) if fill else lengths
    features: dict[str, Tensor | Packing] = {
        "position_ids": torch.from_numpy(np.pad(positions, (0, fill), constant_values=first))[None].to(device),
        "packing": Packing(all_lengths, config.num_attention_heads, device),
        # sentence-transformers' pooling recognizes concatenated sequences by this name.
        "cu_seq_lens_q": torch.from_numpy(np.cumsum(np.append(0, all_lengths))).to(device),
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
    AttentionMaskInterface.register(NAME, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **others: object,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with the signature that transformers expects.

    Args:
        module: the attention layer; its `dropout` is used.
        query: (1, H, tokens, d), as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: is ignored in a packed row.
        dropout: probability; 0 in evaluation.
        scaling: of scores; None: 1 / sqrt(d).
        packing: the layout of the row; None: the sequences are padded, and torch's attention is used.
        others: are passed to torch's attention.

    Returns:
        (1, tokens, H, d), and None for the attention weights.
    """
    if packing is None:
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    # (tokens * H, d), the heads of a token in consecutive rows
    queries, keys, values = (states[0].transpose(0, 1).reshape(-1, states.shape[-1]) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu" and packing.groups[0].longest <= MAX_WRITTEN_OUT_TOKENS:
        layer = getattr(module, "dropout", None)
        attended = _WrittenOutAttention.apply(queries, keys, values, packing, scale, layer if dropout else None)
    else:
        attended = attention_by_sdpa(queries, keys, values, packing, scale, dropout)
    return attended.view(1, packing.tokens, packing.heads, -1), None


def attention_by_sdpa(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, dropout: float
) -> Tensor:
    """Compute the attention of all groups, (tokens * H, d), with torch's kernels."""
    attended_groups = []
    for group in packing.groups:
        shape = (group.sequences, packing.heads, group.longest, query.shape[1])
        queries, keys, values = (states.index_select(0, group.read).view(shape) for states in (query, key, value))
        mask = None if group.ended is None else ~group.ended.view(shape[:3])[:, :1, None, :]
        attended = nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        attended_groups.append(attended.reshape(-1, query.shape[1]))
    rows = packing.tokens * packing.heads
    written = torch.cat([group.write for group in packing.groups])
    return query.new_empty(rows + packing.heads, query.shape[1]).index_copy(0, written, torch.cat(attended_groups))[
        :rows
    ]


class _Context(Protocol):
    """The attributes of autograd's context that are used here."""

    saved_tensors: tuple[Tensor, ...]
    packing: Packing
    scale: float
    dropout_scale: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _WrittenOutAttention(torch.autograd.Function):
    """The same with explicit matrix products, which are several times as fast as torch's kernel on a CPU.

    Legend: M = N * H matrices of a group.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        packing: Packing,
        scale: float,
        dropout: nn.Dropout | None,
    ) -> Tensor:
        rows, width = query.shape
        attended = query.new_empty(rows + packing.heads, width)
        masks, dropout_scale = _dropout_masks(packing, dropout, query.dtype)
        weights_of_groups = []
        with torch.autocast("cpu", enabled=False):
            for group, mask in zip(packing.groups, masks, strict=True):
                queries, keys, values = _read(group, packing, query, key, value)
                if group.ended is None:
                    scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)  # (M, L, L)
                else:
                    bias = queries.new_zeros(len(queries), 1, group.longest)
                    bias.masked_fill_(group.ended.view(len(queries), 1, -1), -torch.inf)
                    scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
                weights = torch.softmax(scores, -1)
                weights_of_groups.append(weights)
                mixed = torch.bmm(weights if mask is None else weights * mask, values)
                attended.index_copy_(0, group.write, mixed.view(-1, width))
        attended = attended[:rows]
        if dropout is not None:
            attended.mul_(dropout_scale)
        ctx.save_for_backward(query, key, value, *weights_of_groups, *(mask for mask in masks if mask is not None))
        ctx.packing, ctx.scale, ctx.dropout_scale = packing, scale, dropout_scale
        return attended

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packing = ctx.packing
        query, key, value, *saved = ctx.saved_tensors
        weights_of_groups = saved[: len(packing.groups)]
        masks: Sequence[Tensor | None] = saved[len(packing.groups) :] or [None] * len(packing.groups)
        rows, width = query.shape
        gradient = gradient.reshape(rows, width) * ctx.dropout_scale
        gradients = query.new_empty(3, rows + packing.heads, width)
        for group, weights, mask in zip(packing.groups, weights_of_groups, masks, strict=True):
            queries, keys, values, outer = _read(group, packing, query, key, value, gradient)
            if group.ended is not None:
                outer.view(-1, width).masked_fill_(group.ended[:, None], 0)
            of_weights = torch.bmm(outer, values.transpose(1, 2))
            if mask is not None:
                of_weights.mul_(mask)
            masked_weights = weights if mask is None else weights * mask
            of_values = torch.bmm(masked_weights.transpose(1, 2), outer)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_queries = torch.bmm(of_scores, keys).mul_(ctx.scale)
            of_keys = torch.bmm(of_scores.transpose(1, 2), queries).mul_(ctx.scale)
            for index, of_input in enumerate((of_queries, of_keys, of_values)):
                gradients[index].index_copy_(0, group.write, of_input.view(-1, width))
        return gradients[0, :rows], gradients[1, :rows], gradients[2, :rows], None, None, None


def _read(group: _Group, packing: Packing, *states: Tensor) -> list[Tensor]:
    """Gather a group's rows of each tensor, (M, L, d)."""
    shape = (group.sequences * packing.heads, group.longest, -1)
    return [tensor.index_select(0, group.read).view(shape) for tensor in states]


def _dropout_masks(
    packing: Packing, dropout: nn.Dropout | None, dtype: torch.dtype
) -> tuple[Sequence[Tensor | None], float]:
    """Draw a mask of zeros and ones (M, L, L) for each group; return the factor of what is kept as well."""
    if dropout is None:
        return [None] * len(packing.groups), 1.0
    shapes = [(group.sequences * packing.heads, group.longest, group.longest) for group in packing.groups]
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert isinstance(dropout, DeterministicDropout), "call key_dropout before training"
    mask, scale = dropout.mask((sum(sizes),), dtype)
    return [part.view(shape) for part, shape in zip(mask.split(sizes), shapes, strict=True)], scale
