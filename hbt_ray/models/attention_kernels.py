"""Attention within each sequence of a packed row: three kernels with the same result.

`attend` chooses one of them:

- On a CPU, explicit matrix products, up to 1,024 tokens a sequence; with capped scores, on any device.
- On a GPU in half precision and without dropout, torch's variable-length attention.
- Otherwise torch's scaled dot-product attention, a call for each group of sequences.

Legend: H heads of queries, K heads of keys and values, d width of a head, M = N * K matrices of a group, G = H / K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from hbt_ray.models.attention_pattern import ALL_TOKENS, AttentionPattern, Window
from hbt_ray.models.deterministic_dropout import DeterministicDropout
from hbt_ray.models.packing import HeadRows, Packing, SequenceGroup

MAX_WRITTEN_OUT_TOKENS = 1024  # of a sequence; the (L, L) matrices of longer ones take too much memory
_MAX_VARLEN_WIDTH = 256  # of a head, which must be a multiple of 8


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    *,
    scale: float,
    pattern: AttentionPattern | None = None,
    softcap: float | None = None,
    dropout: nn.Dropout | None = None,
) -> Tensor:
    """Compute attention within each sequence.

    Args:
        query: (tokens, H, d).
        key: (tokens, K, d), as `value`. Head k serves the query heads k * G to k * G + G - 1.
        value: see `key`.
        packing: the layout of the row.
        scale: factor of the products of queries and keys.
        pattern: which tokens of a sequence attend to which; None: all to all.
        softcap: c of scores c * tanh(score / c); None: as they are.
        dropout: of attention weights; None: nothing is dropped.

    Returns:
        (tokens, H, d).
    """
    probability = 0.0 if dropout is None else dropout.p
    if softcap is None and _fits_varlen(query, probability):
        window = ALL_TOKENS if pattern is None else pattern.window(packing)
        if window is not None:
            return _attention_by_varlen(query, key, value, packing, scale, window)
    groups = packing.groups(query.shape[1], key.shape[1])
    bands = [None if pattern is None else pattern.band(packing, group.longest) for group in groups]
    # (tokens * heads, d), the heads of a token in consecutive rows
    rows = [states.reshape(-1, states.shape[-1]) for states in (query, key, value)]
    if softcap is not None or (query.device.type == "cpu" and packing.longest <= MAX_WRITTEN_OUT_TOKENS):
        attended: Tensor = _WrittenOutAttention.apply(*rows, groups, bands, scale, softcap, dropout)
    else:
        attended = _attention_by_sdpa(rows[0], rows[1], rows[2], groups, bands, scale, probability)
    return attended.view(query.shape)


def _fits_varlen(query: Tensor, dropout: float) -> bool:
    """Return True if torch's variable-length attention, which is FlashAttention, computes this."""
    width = query.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and not dropout and width % 8 == 0 and width <= _MAX_VARLEN_WIDTH


def _attention_by_varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, window: Window
) -> Tensor:
    """Compute the attention of all sequences, (tokens, H, d), in one call."""
    longest = packing.longest
    attended = varlen_attn(
        query,
        key,
        value,
        packing.boundaries,
        packing.boundaries,
        longest,
        longest,
        scale=scale,
        window_size=window,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended


def _attention_by_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[SequenceGroup],
    bands: Sequence[Tensor | None],
    scale: float,
    dropout: float,
) -> Tensor:
    """Compute the attention of all groups, (tokens * H, d), with torch's kernels."""
    rows, width = query.shape
    attended_groups = []
    for group, band in zip(groups, bands, strict=True):
        queries, keys, values = (
            states.index_select(0, of.read).view(group.sequences, -1, group.longest, width)
            for states, of in ((query, group.queries), (key, group.keys), (value, group.keys))
        )
        attended = nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=_mask(group, band),
            dropout_p=dropout,
            scale=scale,
            enable_gqa=group.heads != group.key_heads,
        )
        attended_groups.append(attended.reshape(-1, width))
    written = torch.cat([group.queries.write for group in groups])
    result = query.new_empty(rows + groups[0].heads, width)
    return result.index_copy(0, written, torch.cat(attended_groups))[:rows]


def _mask(group: SequenceGroup, band: Tensor | None) -> Tensor | None:
    """Return which tokens attend to which, (1 or N, 1, 1 or L, L) bool; None if all attend to all."""
    if group.ended is None:
        return None if band is None else band[None, None]
    mask = ~group.ended[:, None, None, :]
    if band is None:
        return mask
    # A token after a sequence's end attends to itself: weights of no token would not be a number.
    return (mask & band) | torch.eye(group.longest, dtype=torch.bool, device=band.device)


class _Context(Protocol):
    """The attributes of autograd's context that are used here."""

    saved_tensors: tuple[Tensor, ...]
    groups: Sequence[SequenceGroup]
    scale: float
    softcap: float | None
    dropout_scale: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _WrittenOutAttention(torch.autograd.Function):
    """The same with explicit matrix products, which are several times as fast as torch's kernel on a CPU.

    The G query heads that share a key head are one matrix of G * L rows, so keys are not repeated.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: Sequence[SequenceGroup],
        bands: Sequence[Tensor | None],
        scale: float,
        softcap: float | None,
        dropout: nn.Dropout | None,
    ) -> Tensor:
        rows, width = query.shape
        attended = query.new_empty(rows + groups[0].heads, width)
        masks, dropout_scale = _dropout_masks(groups, dropout, query)
        weights_of_groups = []
        with torch.autocast(query.device.type, enabled=False):
            for group, band, mask in zip(groups, bands, masks, strict=True):
                queries = _matrices(query, group.queries, group)
                keys, values = (_matrices(states, group.keys, group) for states in (key, value))
                scores = _scores(queries, keys, group, band, scale, softcap)
                weights = torch.softmax(scores, -1)
                weights_of_groups.append(weights)
                mixed = torch.bmm(weights if mask is None else weights * mask, values)
                attended.index_copy_(0, group.queries.write, mixed.view(-1, width))
        attended = attended[:rows]
        if dropout is not None:
            attended.mul_(dropout_scale)
        ctx.save_for_backward(query, key, value, *weights_of_groups, *(mask for mask in masks if mask is not None))
        ctx.groups, ctx.scale, ctx.softcap, ctx.dropout_scale = groups, scale, softcap, dropout_scale
        return attended

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        groups = ctx.groups
        query, key, value, *saved = ctx.saved_tensors
        weights_of_groups = saved[: len(groups)]
        masks: Sequence[Tensor | None] = saved[len(groups) :] or [None] * len(groups)
        rows, width = query.shape
        gradient = gradient.reshape(rows, width) * ctx.dropout_scale
        of_query = query.new_empty(rows + groups[0].heads, width)
        of_key, of_value = (key.new_empty(len(key) + groups[0].key_heads, width) for _ in range(2))
        for group, weights, mask in zip(groups, weights_of_groups, masks, strict=True):
            queries, outer = (_matrices(states, group.queries, group) for states in (query, gradient))
            keys, values = (_matrices(states, group.keys, group) for states in (key, value))
            if group.ended is not None:
                shape = group.sequences, group.heads, group.longest, width
                outer.view(shape).masked_fill_(group.ended[:, None, :, None], 0)
            of_weights = torch.bmm(outer, values.transpose(1, 2))
            if mask is not None:
                of_weights.mul_(mask)
            masked_weights = weights if mask is None else weights * mask
            of_values = torch.bmm(masked_weights.transpose(1, 2), outer)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            if ctx.softcap is not None:
                capped = torch.bmm(queries, keys.transpose(1, 2)).mul_(ctx.scale / ctx.softcap).tanh_()
                of_scores.mul_(1 - capped.square_())
            of_queries = torch.bmm(of_scores, keys).mul_(ctx.scale)
            of_keys = torch.bmm(of_scores.transpose(1, 2), queries).mul_(ctx.scale)
            of_query.index_copy_(0, group.queries.write, of_queries.view(-1, width))
            of_key.index_copy_(0, group.keys.write, of_keys.view(-1, width))
            of_value.index_copy_(0, group.keys.write, of_values.view(-1, width))
        return of_query[:rows], of_key[: len(key)], of_value[: len(key)], None, None, None, None, None


def _matrices(states: Tensor, rows: HeadRows, group: SequenceGroup) -> Tensor:
    """Gather a group's rows of queries, (M, G * L, d), or of keys, (M, L, d)."""
    return states.index_select(0, rows.read).view(group.sequences * group.key_heads, -1, states.shape[1])


def _scores(
    queries: Tensor, keys: Tensor, group: SequenceGroup, band: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Return the (M, G * L, L) scores of a group; of tokens that are not attended to -inf or nearly so."""
    bias = None
    if group.ended is not None:
        # Not -inf with a band: a token after a sequence's end may attend to no other, and needs finite scores.
        lowest = -torch.inf if band is None else torch.finfo(queries.dtype).min / 4
        ended = group.ended[:, None].expand(-1, group.key_heads, -1).reshape(len(queries), 1, -1)
        bias = queries.new_zeros(ended.shape).masked_fill_(ended, lowest)
    if bias is None or softcap is not None:
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)
    else:
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
        if bias is not None:
            scores.add_(bias)
    if band is not None:
        scores.view(len(queries), -1, *band.shape).masked_fill_(~band, -torch.inf)
    return scores


def _dropout_masks(
    groups: Sequence[SequenceGroup], dropout: nn.Dropout | None, query: Tensor
) -> tuple[Sequence[Tensor | None], float]:
    """Draw a mask of zeros and ones (M, G * L, L) for each group; return the factor of what is kept as well."""
    if dropout is None:
        return [None] * len(groups), 1.0
    shapes = [
        (group.sequences * group.key_heads, group.heads // group.key_heads * group.longest, group.longest)
        for group in groups
    ]
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert isinstance(dropout, DeterministicDropout), "call key_dropout before training"
    mask, scale = dropout.mask((sum(sizes),), query.dtype)
    parts = mask.to(query.device).split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)], scale
