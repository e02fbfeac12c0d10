"""Sequences that pass an encoder one after the other, as one long row without padding.

All layers but attention work token by token and need not know. Attention is computed for groups of sequences of
nearly equal length: a group is gathered into a rectangle, and only there a little padding is.

Shapes are few on purpose: for each new one, oneDNN generates a kernel of a matrix product, which takes longer than
many of the products. So a row's tokens are filled up to a multiple of ROW, groups have few lengths, and their number
of sequences is a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hbt_ray.models.deterministic_dropout import DeterministicDropout

NAME = "hbt_packed"  # of the attention, in transformers' registry
LONG = 1024  # from more tokens on, the memory of a product of all pairs of tokens is too much
ROW = 64  # tokens; a row has a multiple of them
LEAST_STEP = 16  # tokens between the lengths of groups, up to 256; an eighth to a sixteenth of longer ones

# Families whose models take the positions of tokens as an argument and attend by absolute position alone; their first
# position is 0, or one behind that of padding.
_FROM_ZERO = {"bert", "electra"}
_BEHIND_PADDING = {"roberta", "xlm-roberta", "camembert"}


def transformer_of(encoder: SentenceTransformer) -> Any:
    """The transformers model inside; None where an encoder begins with something else."""
    return getattr(encoder[0], "model", None)


def can_pack(encoder: SentenceTransformer) -> bool:
    """Whether an encoder's model is of a family that can be fed without padding."""
    config = getattr(transformer_of(encoder), "config", None)
    family = getattr(config, "model_type", None)
    return family in _FROM_ZERO | _BEHIND_PADDING and not getattr(config, "is_decoder", False)


def is_packed(encoder: SentenceTransformer) -> bool:
    """Whether an encoder was given this attention."""
    config = getattr(transformer_of(encoder), "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


@dataclass(frozen=True, slots=True)
class _Group:
    """Legend: N sequences, H heads, L the longest's tokens, d a head's width. Rows are of a (tokens * H, d) matrix."""

    sequences: int  # N
    longest: int  # L
    read: Tensor  # (N * H * L,) rows; where a sequence has ended, its first again
    write: Tensor  # (N * H * L,) rows; where a sequence has ended, one that does not count
    ended: Tensor | None  # (N * H * L,) bool, or None where all are equally long


class Packing:
    """Where each sequence of a packed row lies.

    Args:
        lengths: (N,) tokens of each.
        heads: of the encoder's attention.
    """

    def __init__(self, lengths: np.ndarray, heads: int, device: torch.device) -> None:
        self.heads = heads
        self.tokens = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        self.groups = [
            _group(starts[own], lengths[own], longest, self.tokens, heads, device)
            for own, longest in _of_nearly_equal_length(lengths)
        ]


def _of_nearly_equal_length(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Which sequences each group has, a power of two, and how long they may be; the longest first."""
    steps = np.maximum(LEAST_STEP, 2 ** np.floor(np.log2(lengths)).astype(np.int64) // 8)
    rounded = -(-lengths // steps) * steps
    for longest in np.unique(rounded)[::-1].tolist():
        own = np.flatnonzero(rounded == longest)
        while len(own):
            size = 1 << (len(own).bit_length() - 1)
            yield own[:size], longest
            own = own[size:]


def _group(
    starts: np.ndarray, lengths: np.ndarray, longest: int, tokens: int, heads: int, device: torch.device
) -> _Group:
    places = starts[:, None] + np.arange(longest)  # (N, L)
    ended = np.arange(longest) >= lengths[:, None]

    def rows(of_tokens: np.ndarray) -> Tensor:
        found = of_tokens[:, None, :] * heads + np.arange(heads)[:, None]  # (N, H, L)
        return torch.from_numpy(found.reshape(-1)).to(device)

    read = rows(np.where(ended, starts[:, None], places))
    if not ended.any():
        return _Group(len(lengths), longest, read, read, None)
    of_heads = np.repeat(ended[:, None, :], heads, axis=1).reshape(-1)
    return _Group(
        len(lengths), longest, read, rows(np.where(ended, tokens, places)), torch.from_numpy(of_heads).to(device)
    )


def packed_vectors(
    encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray, embeddings: Tensor | None = None
) -> Tensor:
    """(N, D) what an encoder that `is_packed` makes of sequences.

    Args:
        ids: (tokens,) of all sequences, one after the other.
        lengths: (N,) tokens of each.
        embeddings: (tokens, E) the ids' word embeddings, where they were looked up already.
    """
    features = _features(encoder, ids, lengths, embeddings)
    vectors: Tensor = encoder(features)["sentence_embedding"]
    return vectors[: len(lengths)]


def packed_tokens(encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
    """(tokens, D) what the transformer of an encoder that `is_packed` makes of each token; arguments as above."""
    states: Tensor = encoder[0](_features(encoder, ids, lengths))["token_embeddings"]
    return states[0, : len(ids)]


def _features(
    encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray, embeddings: Tensor | None = None
) -> dict[str, Any]:
    """One long row, as the modules of an encoder take it."""
    config = transformer_of(encoder).config
    device = encoder.device
    first = config.pad_token_id + 1 if config.model_type in _BEHIND_PADDING else 0
    places = first + np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    fill = -len(ids) % ROW
    # What fills the row is one more sequence, of which nothing is used.
    all_lengths = np.append(lengths, fill) if fill else lengths
    features: dict[str, Any] = {
        "position_ids": torch.from_numpy(np.pad(places, (0, fill), constant_values=first))[None].to(device),
        "packing": Packing(all_lengths, config.num_attention_heads, device),
        # By its name sentence-transformers' pooling knows that sequences stand one after the other.
        "cu_seq_lens_q": torch.from_numpy(np.cumsum(np.append(0, all_lengths))).to(device),
    }
    if embeddings is None:
        features["input_ids"] = torch.from_numpy(np.pad(ids.astype(np.int64), (0, fill)))[None].to(device)
    else:
        features["inputs_embeds"] = nn.functional.pad(embeddings, (0, 0, 0, fill))[None]
    return features


def word_embeddings(encoder: SentenceTransformer, ids: np.ndarray) -> Tensor:
    """(tokens, D) of an encoder that can be packed."""
    table: nn.Module = transformer_of(encoder).get_input_embeddings()
    found: Tensor = table(torch.from_numpy(ids.astype(np.int64)).to(encoder.device))
    return found


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: (1, H, tokens, d) each, or padded as ever where no `packing` is told.

    Returns:
        (1, tokens, H, d), and None.
    """
    if packing is None:
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    # (tokens * H, d), the heads of a token one after the other
    queries, keys, values = (states[0].transpose(0, 1).reshape(-1, states.shape[-1]) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu" and packing.groups[0].longest <= LONG:
        drop = getattr(module, "dropout", None)
        attended = _Attention.apply(queries, keys, values, packing, scale, drop if dropout else None)
    else:
        attended = attention_by_sdpa(queries, keys, values, packing, scale, dropout)
    return attended.view(1, packing.tokens, packing.heads, -1), None


def attention_by_sdpa(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, dropout: float
) -> Tensor:
    """(tokens * H, d) by torch's own attention, of all groups: what a GPU has its kernels for."""
    found = []
    for group in packing.groups:
        shape = (group.sequences, packing.heads, group.longest, query.shape[1])
        queries, keys, values = (states.index_select(0, group.read).view(shape) for states in (query, key, value))
        mask = None if group.ended is None else ~group.ended.view(shape[:3])[:, :1, None, :]
        attended = nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        found.append(attended.reshape(-1, query.shape[1]))
    rows = packing.tokens * packing.heads
    written = torch.cat([group.write for group in packing.groups])
    return query.new_empty(rows + packing.heads, query.shape[1]).index_copy(0, written, torch.cat(found))[:rows]


class _Attention(torch.autograd.Function):
    """The same, written out: on a CPU, products of many small matrices are several times as fast as torch's kernel.

    Legend: M = N * H matrices of a group.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, drop: nn.Dropout | None
    ) -> Tensor:
        rows, width = query.shape
        attended = query.new_empty(rows + packing.heads, width)
        kept, grown = _kept(packing, drop, query.dtype)
        shares = []
        with torch.autocast("cpu", enabled=False):
            for group, own_kept in zip(packing.groups, kept, strict=True):
                queries, keys, values = _read(group, packing, query, key, value)
                if group.ended is None:
                    scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)  # (M, L, L)
                else:
                    behind = queries.new_zeros(len(queries), 1, group.longest)
                    behind.masked_fill_(group.ended.view(len(queries), 1, -1), -torch.inf)
                    scores = torch.baddbmm(behind, queries, keys.transpose(1, 2), alpha=scale)
                share = torch.softmax(scores, -1)
                shares.append(share)
                found = torch.bmm(share if own_kept is None else share * own_kept, values)
                attended.index_copy_(0, group.write, found.view(-1, width))
        attended = attended[:rows]
        if drop is not None:
            attended.mul_(grown)
        ctx.save_for_backward(query, key, value, *shares, *(own for own in kept if own is not None))
        ctx.packing, ctx.scale, ctx.grown = packing, scale, grown
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packing: Packing = ctx.packing
        query, key, value, *saved = ctx.saved_tensors
        shares, kept = saved[: len(packing.groups)], saved[len(packing.groups) :] or [None] * len(packing.groups)
        rows, width = query.shape
        gradient = gradient.reshape(rows, width) * ctx.grown
        found = query.new_empty(3, rows + packing.heads, width)
        for group, share, own_kept in zip(packing.groups, shares, kept, strict=True):
            queries, keys, values, outer = _read(group, packing, query, key, value, gradient)
            if group.ended is not None:
                outer.view(-1, width).masked_fill_(group.ended[:, None], 0)
            of_shares = torch.bmm(outer, values.transpose(1, 2))
            if own_kept is not None:
                of_shares.mul_(own_kept)
            used = share if own_kept is None else share * own_kept
            of_values = torch.bmm(used.transpose(1, 2), outer)
            of_scores = torch._softmax_backward_data(of_shares, share, -1, share.dtype)
            of_queries = torch.bmm(of_scores, keys).mul_(ctx.scale)
            of_keys = torch.bmm(of_scores.transpose(1, 2), queries).mul_(ctx.scale)
            for place, own in enumerate((of_queries, of_keys, of_values)):
                found[place].index_copy_(0, group.write, own.view(-1, width))
        return found[0, :rows], found[1, :rows], found[2, :rows], None, None, None


def _read(group: _Group, packing: Packing, *states: Tensor) -> list[Tensor]:
    """(M, L, d) of each."""
    shape = (group.sequences * packing.heads, group.longest, -1)
    return [own.index_select(0, group.read).view(shape) for own in states]


def _kept(packing: Packing, drop: nn.Dropout | None, dtype: torch.dtype) -> tuple[Sequence[Tensor | None], float]:
    """Zeros and ones (M, L, L) of each group, and by what those that stay are to be multiplied."""
    if drop is None:
        return [None] * len(packing.groups), 1.0
    shapes = [(group.sequences * packing.heads, group.longest, group.longest) for group in packing.groups]
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert isinstance(drop, DeterministicDropout), "an encoder's dropout is keyed before it is trained"
    mask, grown = drop.mask((sum(sizes),), dtype)
    return [own.view(shape) for own, shape in zip(mask.split(sizes), shapes, strict=True)], grown


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
