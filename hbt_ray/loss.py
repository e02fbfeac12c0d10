"""InfoNCE with in-batch negatives, on one rank or gathered from all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherWithGradient(torch.autograd.Function):
    """All ranks' tensors joined in rank order; in backward each rank gets what all ranks' losses say of its own.

    With each rank's loss the mean over its own questions, and DDP taking the mean over ranks, the gradient is
    exactly that of the joined batch. Gathering without gradient points elsewhere.
    """

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(own: Tensor) -> Tensor:
    """(ranks * N, ...) every rank's (N, ...), in rank order, with gradient."""
    if own.is_floating_point():
        return _GatherWithGradient.apply(own)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own.contiguous())
    return torch.cat(gathered)


def in_batch_loss(
    query_vectors: Tensor,
    passage_vectors: Tensor,
    query_keys: Tensor,
    passage_keys: Tensor,
    *,
    temperature: float,
    gather_negatives: bool = False,
) -> Tensor:
    """Mean InfoNCE of this rank's questions (van den Oord et al. 2018, arXiv 1807.03748).

        loss_i = -log( exp(q_i . d_i / t) / sum_j exp(q_i . d_j / t) )

    over its own passage and every other that is not known to be right as well: a passage equal to d_i, and the
    positive of an equal question, are left out of the sum.

    Args:
        query_vectors: (B, D) unit vectors.
        passage_vectors: (B * (1 + N), D): the positives in the questions' order, then N negatives per pair.
        query_keys: (B,) equal where questions are equal.
        passage_keys: (B * (1 + N),) likewise.
        temperature: t.
        gather_negatives: all ranks' passages serve as negatives; every rank must bring the same number.
    """
    pairs = len(query_vectors)
    first = 0
    # A passage's question: the key of the pair it is the positive of. A negative has none to be equal with.
    is_positive = torch.arange(len(passage_vectors), device=query_vectors.device) < pairs
    own_query_keys = torch.zeros_like(passage_keys)
    own_query_keys[:pairs] = query_keys
    if gather_negatives and dist.is_initialized() and dist.get_world_size() > 1:
        first = dist.get_rank() * len(passage_vectors)
        passage_vectors = gather(passage_vectors)
        passage_keys = gather(passage_keys)
        own_query_keys = gather(own_query_keys)
        is_positive = is_positive.repeat(dist.get_world_size())
    right = first + torch.arange(pairs, device=query_vectors.device)
    scores = query_vectors @ passage_vectors.T / temperature  # (B, passages)
    also_right = passage_keys[right, None] == passage_keys[None]
    also_right |= (query_keys[:, None] == own_query_keys[None]) & is_positive[None]
    also_right[torch.arange(pairs), right] = False
    return torch.nn.functional.cross_entropy(scores.masked_fill(also_right, -torch.inf), right)
