"""InfoNCE with in-batch negatives, on one rank or gathered from all, and what is trained beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_ray.config import LossConfig


class _GatherWithGradient(torch.autograd.Function):
    """All ranks' tensors joined in rank order; in backward each rank gets what all ranks' losses say of its own.

    With each rank's loss the mean over its own questions, and DDP taking the mean over ranks, the gradient is
    exactly that of the joined batch. Gathering without gradient points elsewhere.
    """

    @staticmethod
    def forward(ctx, own: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return _gathered(own, sizes)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None


def gather(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """(sum of sizes, ...) every rank's (size of rank, ...), in rank order, with gradient."""
    return _GatherWithGradient.apply(own, sizes) if own.is_floating_point() else _gathered(own, sizes)


def _gathered(own: Tensor, sizes: Sequence[int]) -> Tensor:
    most = max(sizes)  # collectives want equal shapes
    padded = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]) if len(own) < most else own.contiguous()
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([tensor[:size] for tensor, size in zip(gathered, sizes, strict=True)])


def in_batch_loss(
    query_vectors: Tensor,
    passage_vectors: Tensor,
    query_keys: Tensor,
    passage_keys: Tensor,
    *,
    temperature: float,
    gather_negatives: bool = False,
    rank_pairs: Sequence[int] | None = None,
) -> Tensor:
    """Mean InfoNCE of this rank's questions (van den Oord et al. 2018, arXiv 1807.03748).

        loss_i = -log( exp(q_i . d_i / t) / sum_j exp(q_i . d_j / t) )

    over its own passage and every other that is not known to be right as well: a passage equal to d_i, and the
    positive of an equal question, are left out of the sum. The mean is weighted by this rank's share of the pairs,
    times the number of ranks, so that the ranks' plain mean is the mean over all questions.

    Args:
        query_vectors: (B, D) unit vectors.
        passage_vectors: (B * (1 + N), D): the positives in the questions' order, then N negatives per pair.
        query_keys: (B,) equal where questions are equal.
        passage_keys: (B * (1 + N),) likewise.
        temperature: t.
        gather_negatives: all ranks' passages serve as negatives; every rank must bring N per pair.
        rank_pairs: pairs of each rank; None: as many as this one has.
    """
    pairs, per_pair = len(query_vectors), len(passage_vectors) // len(query_vectors)
    first, weight = 0, 1.0
    # A passage's question: the key of the pair it is the positive of. A negative has none to be equal with.
    is_positive = torch.arange(len(passage_vectors), device=query_vectors.device) < pairs
    own_query_keys = torch.zeros_like(passage_keys)
    own_query_keys[:pairs] = query_keys
    if dist.is_initialized() and dist.get_world_size() > 1:
        ranks, rank = dist.get_world_size(), dist.get_rank()
        rank_pairs = rank_pairs or [pairs] * ranks
        weight = pairs * ranks / sum(rank_pairs)
        if gather_negatives:
            sizes = [own * per_pair for own in rank_pairs]
            first = sum(sizes[:rank])
            passage_vectors = gather(passage_vectors, sizes)
            passage_keys = gather(passage_keys, sizes)
            own_query_keys = gather(own_query_keys, sizes)
            is_positive = torch.cat([torch.arange(own * per_pair) < own for own in rank_pairs]).to(is_positive.device)
    right = first + torch.arange(pairs, device=query_vectors.device)
    scores = query_vectors @ passage_vectors.T / temperature  # (B, passages)
    also_right = passage_keys[right, None] == passage_keys[None]
    also_right |= (query_keys[:, None] == own_query_keys[None]) & is_positive[None]
    also_right[torch.arange(pairs), right] = False
    return weight * torch.nn.functional.cross_entropy(scores.masked_fill(also_right, -torch.inf), right)


def distillation_loss(
    query_vectors: Tensor,
    passage_vectors: Tensor,
    teacher_vectors: tuple[Tensor, Tensor],
    *,
    temperature: float,
    gather_negatives: bool = False,
    rank_pairs: Sequence[int] | None = None,
) -> Tensor:
    """Mean divergence of this rank's questions from what a teacher says of them (Hinton et al. 2015, arXiv 1503.02531).

        loss_i = sum_j p_ij log(p_ij / s_ij),  s_ij = exp(q_i . d_j / t) / sum_k exp(q_i . d_k / t),

    p_ij likewise of the teacher's vectors. The sums are over all passages: how right each is, the teacher says, so
    none is left out. The mean is weighted as in `in_batch_loss`, whose arguments these are, but:

    Args:
        teacher_vectors: the teacher's unit vectors of the questions (B, E) and of the passages (B * (1 + N), E).
        temperature: t, of both.
    """
    pairs, per_pair = len(query_vectors), len(passage_vectors) // len(query_vectors)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    rank_pairs = rank_pairs or [pairs] * ranks
    teacher_queries, teacher_passages = teacher_vectors
    if gather_negatives and ranks > 1:
        sizes = [own * per_pair for own in rank_pairs]
        passage_vectors, teacher_passages = gather(passage_vectors, sizes), gather(teacher_passages, sizes)
    told = torch.log_softmax(teacher_queries @ teacher_passages.T / temperature, dim=1)  # (B, passages)
    found = torch.log_softmax(query_vectors @ passage_vectors.T / temperature, dim=1)
    divergence = torch.nn.functional.kl_div(found, told, reduction="batchmean", log_target=True)
    return pairs * ranks / sum(rank_pairs) * divergence


def training_loss(
    settings: LossConfig,
    query_vectors: Tensor,
    passage_vectors: Tensor,
    query_keys: Tensor,
    passage_keys: Tensor,
    *,
    temperature: float,
    gather_negatives: bool = False,
    rank_pairs: Sequence[int] | None = None,
    teacher_vectors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What is trained: the mean of a loss at the whole width and at each of `settings.matryoshka`.

    At a width the vectors are cut to their first values and brought to unit length again (Kusupati et al. 2022, arXiv
    2205.13147). The loss there is `in_batch_loss`; with `settings.symmetric` the mean of that and of the same from
    positive passages to questions; and with a teacher, `distillation_loss` is added.

    Args:
        teacher_vectors: as `distillation_loss` takes them, whole at each width; needed for `settings.distillation`.

    The others are those of `in_batch_loss`.
    """

    def at(width: int) -> Tensor:
        queries, passages = cut(query_vectors, width), cut(passage_vectors, width)
        loss = in_batch_loss(
            queries,
            passages,
            query_keys,
            passage_keys,
            temperature=temperature,
            gather_negatives=gather_negatives,
            rank_pairs=rank_pairs,
        )
        if settings.symmetric:
            pairs = len(queries)
            # The sides change places. What is left out stays the same: of two pairs whose questions or passages are
            # equal, each is right for the other.
            backwards = in_batch_loss(
                passages[:pairs],
                queries,
                passage_keys[:pairs],
                query_keys,
                temperature=temperature,
                gather_negatives=gather_negatives,
                rank_pairs=rank_pairs,
            )
            loss = (loss + backwards) / 2
        if settings.distillation is not None:
            assert teacher_vectors is not None
            divergence = distillation_loss(
                queries,
                passages,
                teacher_vectors,
                temperature=settings.distillation.temperature,
                gather_negatives=gather_negatives,
                rank_pairs=rank_pairs,
            )
            loss = loss + settings.distillation.weight * divergence
        return loss

    widths = {*settings.matryoshka, query_vectors.shape[1]}
    return torch.stack([at(width) for width in sorted(widths)]).mean()


def cut(vectors: Tensor, width: int) -> Tensor:
    """(N, D) unit vectors to (N, width): their first values, brought to unit length again."""
    if width == vectors.shape[1]:
        return vectors
    return torch.nn.functional.normalize(vectors[:, :width], dim=1)
