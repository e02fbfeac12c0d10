"""Distillation of a teacher's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from hbt_ray.config import LossConfig
from hbt_ray.losses.base import Loss, LossInputs
from hbt_ray.losses.score_tiles import sum_over_tiles


class Distillation(Loss):
    """Kullback-Leibler divergence from a teacher's score distribution (Hinton et al. 2015, arXiv 1503.02531).

        loss_i = sum_j p_ij log(p_ij / s_ij),  s_ij = exp(q_i . d_j / t) / sum_k exp(q_i . d_k / t)

    p_ij is the same of the teacher's embeddings. The sums are over all passages of the batch. No false negatives are
    left out, because the teacher says how relevant each passage is.

    Args:
        temperature: t, of both softmaxes.
        weight: of the term in the sum.
    """

    requires_teacher: ClassVar[bool] = True

    def __init__(self, temperature: float, *, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.temperature = temperature

    @classmethod
    def from_config(cls, config: LossConfig, temperature: float) -> Self | None:
        """Return the loss if a teacher is configured. Its temperature is not that of InfoNCE."""
        settings = config.distillation
        return None if settings is None else cls(settings.temperature, weight=settings.weight)

    def forward(self, inputs: LossInputs) -> Tensor:
        assert inputs.teacher is not None, "distillation requires a teacher"
        ranks, teacher = inputs.ranks, inputs.teacher
        passages, teacher_passages = map(ranks.gather, (inputs.passage_embeddings, teacher.passages))

        def divergence(rows: slice, scores: Sequence[Tensor]) -> Tensor:
            teacher_scores = teacher.queries[rows] @ teacher_passages.T / self.temperature
            log_probs, teacher_log_probs = (
                torch.log_softmax(of_model, dim=1) for of_model in (*scores, teacher_scores)
            )
            return torch.nn.functional.kl_div(log_probs, teacher_log_probs, reduction="sum", log_target=True)

        total = sum_over_tiles(divergence, [inputs.query_embeddings], passages, self.temperature, copies=2)
        return ranks.loss_weight * (total / inputs.num_pairs)
