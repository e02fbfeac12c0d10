"""Losses of a matrix of scores that is too large to be held, in tiles of some of its rows.

Legend: A anchors, such as queries, C candidates, D width; in a tile, T anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Of a tile: 8 MiB in float32, and about 100 MiB with masks, the softmax and its gradient.
MAX_SCORES = 2**21

# (rows of the anchors, (T, C) scores of each kind of anchors) -> sum of the loss over these rows
TileLoss = Callable[[slice, Sequence[Tensor]], Tensor]


def sum_over_tiles(
    loss_of: TileLoss, anchors: Sequence[Tensor], candidates: Tensor, temperature: float, *, copies: int = 1
) -> Tensor:
    """Sum a loss of the scores of anchors and candidates, over all anchors.

    All scores are one tile where they are at most MAX_SCORES. Otherwise the gradient is computed with the loss, tile by
    tile, so that memory holds the scores of one tile.

    Args:
        loss_of: the sum of the loss over the rows of a tile.
        anchors: (A, D) each; a kind of anchors has a matrix of scores by itself.
        candidates: (C, D)
        temperature: divides scores.
        copies: of each score that `loss_of` makes.
    """
    size = max(1, MAX_SCORES // (len(candidates) * len(anchors) * copies))
    if size >= len(anchors[0]):
        return loss_of(slice(0, len(anchors[0])), [of_kind @ candidates.T / temperature for of_kind in anchors])
    total: Tensor = _SumOverTiles.apply(loss_of, size, temperature, candidates, *anchors)  # type: ignore[no-untyped-call]
    return total


class _Context(Protocol):
    """The attributes of autograd's context that are used here."""

    gradients: list[Tensor]


class _SumOverTiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, loss_of: TileLoss, size: int, temperature: float, candidates: Tensor, *anchors: Tensor
    ) -> Tensor:
        with_gradient = any(tensor.requires_grad for tensor in (candidates, *anchors))
        total = candidates.new_zeros(())
        gradients = [torch.zeros_like(tensor) for tensor in (candidates, *anchors)] if with_gradient else []
        for first in range(0, len(anchors[0]), size):
            rows = slice(first, min(first + size, len(anchors[0])))
            with torch.enable_grad():
                scores = [(of_kind[rows] @ candidates.T).div_(temperature).requires_grad_() for of_kind in anchors]
                loss = loss_of(rows, scores)
            total += loss.detach()
            if with_gradient:
                of_candidates, *of_anchors = gradients
                by_scores = torch.autograd.grad(loss, scores)
                for by_score, of_kind, gradient in zip(by_scores, anchors, of_anchors, strict=True):
                    torch.mm(by_score, candidates, out=gradient[rows]).div_(temperature)
                    of_candidates.addmm_(by_score.T, of_kind[rows], alpha=1 / temperature)
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: _Context, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, []  # scaled in place: each is as large as the embeddings
        return (None, None, None, *(gradient.mul_(factor) for gradient in gradients))
