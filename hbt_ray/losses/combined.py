"""InfoNCE with in-batch negatives, on one rank or gathered from all, and what is trained beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_ray.config import LossConfig
from hbt_ray.utils.activity import Phase, in_phase


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
        with in_phase(Phase.ALL_REDUCE):
            dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None


def gather(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """(sum of sizes, ...) every rank's (size of rank, ...), in rank order, with gradient. One size: its own alone."""
    if len(sizes) == 1:
        return own
    return _GatherWithGradient.apply(own, sizes) if own.is_floating_point() else _gathered(own, sizes)


def _gathered(own: Tensor, sizes: Sequence[int]) -> Tensor:
    most = max(sizes)  # collectives want equal shapes
    padded = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]) if len(own) < most else own.contiguous()
    gathered = [torch.empty_like(padded) for _ in sizes]
    with in_phase(Phase.ALL_REDUCE):
        dist.all_gather(gathered, padded)
    return torch.cat([tensor[:size] for tensor, size in zip(gathered, sizes, strict=True)])


@dataclass(frozen=True, slots=True)
class _Share:
    """A rank's share of a batch."""

    weight: float  # of its mean, so that the ranks' plain mean is the mean over all pairs
    joined: list[int]  # pairs of each rank whose passages its questions are compared with
    place: int  # its own among them

    @staticmethod
    def of(num_pairs: int, gather_negatives: bool, rank_pairs: Sequence[int] | None) -> _Share:
        if not dist.is_initialized():
            return _Share(1.0, [num_pairs], 0)
        ranks = dist.get_world_size()
        rank_pairs = list(rank_pairs or [num_pairs] * ranks)
        weight = num_pairs * ranks / sum(rank_pairs)
        return _Share(weight, rank_pairs, dist.get_rank()) if gather_negatives else _Share(weight, [num_pairs], 0)


def in_batch_loss(
    query_vectors: Tensor,
    passage_vectors: Tensor,
    query_keys: Tensor,
    passage_keys: Tensor,
    *,
    temperature: float,
    gather_negatives: bool = False,
    rank_pairs: Sequence[int] | None = None,
    positives: int = 1,
    asking_keys: Tensor | None = None,
) -> Tensor:
    """Mean InfoNCE of this rank's questions (van den Oord et al. 2018, arXiv 1807.03748).

        loss_i = -log( exp(q_i . d_i / t) / sum_j exp(q_i . d_j / t) )

    over its own passage and every other that is not known to be right as well: a passage equal to d_i, and the
    positive of an equal question, are left out of the sum. The mean is weighted by this rank's share of the pairs,
    times the number of ranks, so that the ranks' plain mean is the mean over all questions.

    Where a question has K positives (Nie et al. 2024, "1-to-K contrastive learning", arXiv 2406.18254), each has such
    a term, of which the mean is taken; in none of them the others stand in the sum, being known to be right.

    Args:
        query_vectors: (B, D) unit vectors.
        passage_vectors: (B * (K + N), D): the positives in the questions' order, then N negatives per pair.
        query_keys: (B,) equal where questions are equal.
        passage_keys: (B * (K + N),) likewise.
        temperature: t.
        gather_negatives: all ranks' passages serve as negatives; every rank must bring N per pair.
        rank_pairs: pairs of each rank; None: as many as this one has.
        positives: K.
        asking_keys: (B * K, W) keys of all that ask for each positive, its own question's among them; None: that alone.
    """
    pairs, per_pair = len(query_vectors), len(passage_vectors) // len(query_vectors)
    # A passage's question: the key of the pair it is the positive of. A negative has none to be equal with.
    asking_keys = query_keys.repeat_interleave(positives)[:, None] if asking_keys is None else asking_keys
    own_query_keys = passage_keys.new_zeros(len(passage_keys), asking_keys.shape[1])
    own_query_keys[: pairs * positives] = asking_keys
    share = _Share.of(pairs, gather_negatives, rank_pairs)
    sizes = [own * per_pair for own in share.joined]
    passage_vectors, passage_keys, own_query_keys = (
        gather(of_passages, sizes) for of_passages in (passage_vectors, passage_keys, own_query_keys)
    )
    is_positive = torch.cat([torch.arange(own * per_pair) < own * positives for own in share.joined])
    is_positive = is_positive.to(query_vectors.device)
    first = sum(sizes[: share.place])
    right = first + torch.arange(pairs * positives, device=query_vectors.device)
    scores = query_vectors @ passage_vectors.T / temperature  # (B, passages)
    also_right = (passage_keys[right, None] == passage_keys[None]).view(pairs, positives, -1).any(1)
    also_right |= (query_keys[:, None, None] == own_query_keys[None]).any(2) & is_positive[None]
    # A row for each question and positive: (B * K, passages).
    scores, also_right = (of[:, None].expand(-1, positives, -1).flatten(0, 1) for of in (scores, also_right))
    also_right[torch.arange(len(right)), right] = False
    return share.weight * torch.nn.functional.cross_entropy(scores.masked_fill(also_right, -torch.inf), right)


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
    share = _Share.of(pairs, gather_negatives, rank_pairs)
    sizes = [own * per_pair for own in share.joined]
    teacher_queries, teacher_passages = teacher_vectors
    passage_vectors, teacher_passages = gather(passage_vectors, sizes), gather(teacher_passages, sizes)
    told = torch.log_softmax(teacher_queries @ teacher_passages.T / temperature, dim=1)  # (B, passages)
    found = torch.log_softmax(query_vectors @ passage_vectors.T / temperature, dim=1)
    divergence = torch.nn.functional.kl_div(found, told, reduction="batchmean", log_target=True)
    return share.weight * divergence


def consistency_loss(
    query_vectors: Tensor,
    second_vectors: Tensor,
    passage_vectors: Tensor,
    *,
    temperature: float,
    num_pairs: int,
    gather_negatives: bool = False,
    rank_pairs: Sequence[int] | None = None,
) -> Tensor:
    """How unlike this rank's questions score passages when they are asked in a second language, a mean over pairs.

        loss_i = ( KL(p_i || r_i) + KL(r_i || p_i) ) / 2 = sum_j (p_ij - r_ij) (log p_ij - log r_ij) / 2,

    p_i the softmax of q_i . d_j / t over all passages of the batch, r_i that of the question in its second language.
    None is left out, since both sides see the same ones. A pair without a second question counts as 0. The mean is
    weighted as in `in_batch_loss`, whose arguments these are, but:

    Args:
        query_vectors: (S, D) unit vectors of the questions that have a second language.
        second_vectors: (S, D) of the same questions in it.
        num_pairs: B, those without a second question included.
    """
    share = _Share.of(num_pairs, gather_negatives, rank_pairs)
    per_pair = len(passage_vectors) // num_pairs
    passage_vectors = gather(passage_vectors, [own * per_pair for own in share.joined])
    first = torch.log_softmax(query_vectors @ passage_vectors.T / temperature, dim=1)  # (S, passages)
    second = torch.log_softmax(second_vectors @ passage_vectors.T / temperature, dim=1)
    divergences = ((first.exp() - second.exp()) * (first - second)).sum(1) / 2
    return share.weight * divergences.sum() / num_pairs


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
    positives: int = 1,
    second_of: Tensor | None = None,
    teacher_vectors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What is trained: the mean of a loss at the whole width and at each of `settings.matryoshka`.

    At a width the vectors are cut to their first values and brought to unit length again (Kusupati et al. 2022, arXiv
    2205.13147). The loss there is `in_batch_loss`; with `settings.symmetric` the mean of that and of the same from
    positive passages to questions; `distillation_loss` is added with a teacher, and `consistency_loss` with its weight.

    Args:
        query_vectors: (B + S, D) unit vectors: the questions, then those in a second language.
        second_of: (S,) whose second they are; None: there are none.
        teacher_vectors: the teacher's unit vectors, in the order of the others, whole at each width; needed for
            `settings.distillation`.

    The others are those of `in_batch_loss`.
    """
    pairs = len(query_keys)
    common: dict[str, Any] = {
        "temperature": temperature,
        "gather_negatives": gather_negatives,
        "rank_pairs": rank_pairs,
    }

    def at(width: int) -> Tensor:
        queries, seconds = cut(query_vectors, width).split([pairs, len(query_vectors) - pairs])
        passages = cut(passage_vectors, width)
        loss = in_batch_loss(queries, passages, query_keys, passage_keys, positives=positives, **common)
        if settings.symmetric:
            # The sides change places. What is left out stays the same: of two pairs whose questions or any of whose
            # passages are equal, each is right for the other.
            answers, keys = passages[: pairs * positives], passage_keys[: pairs * positives].view(pairs, positives)
            backwards = [
                in_batch_loss(answers[k::positives], queries, keys[:, k], query_keys, asking_keys=keys, **common)
                for k in range(positives)
            ]
            loss = (loss + torch.stack(backwards).mean()) / 2
        if settings.distillation is not None:
            assert teacher_vectors is not None
            taught = {**common, "temperature": settings.distillation.temperature}
            told = (teacher_vectors[0][:pairs], teacher_vectors[1])
            loss = loss + settings.distillation.weight * distillation_loss(queries, passages, told, **taught)
        if settings.consistency and second_of is not None:
            apart = consistency_loss(queries[second_of], seconds, passages, num_pairs=pairs, **common)
            loss = loss + settings.consistency * apart
        return loss

    widths = {*settings.matryoshka, query_vectors.shape[1]}
    return torch.stack([at(width) for width in sorted(widths)]).mean()


def cut(vectors: Tensor, width: int) -> Tensor:
    """(N, D) unit vectors to (N, width): their first values, brought to unit length again."""
    if width == vectors.shape[1]:
        return vectors
    return torch.nn.functional.normalize(vectors[:, :width], dim=1)
