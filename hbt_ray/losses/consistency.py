"""Consistency of a query's scores with those of its translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from hbt_ray.config import LossConfig
from hbt_ray.losses.base import Loss, LossInputs
from hbt_ray.losses.score_tiles import sum_over_tiles


class TranslationConsistency(Loss):
    """Symmetric divergence between the score distributions of a query and its translation, a mean over pairs.

        loss_i = ( KL(p_i || r_i) + KL(r_i || p_i) ) / 2 = sum_j (p_ij - r_ij) (log p_ij - log r_ij) / 2

    p_i is the softmax of q_i . d_j / t over all passages of the batch, r_i that of the translated query. No false
    negatives are left out, because both distributions are over the same passages. A pair without a translated query
    counts as 0.

    Args:
        temperature: t.
        weight: of the term in the sum.
    """

    requires_translations: ClassVar[bool] = True

    def __init__(self, temperature: float, *, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.temperature = temperature

    @classmethod
    def from_config(cls, config: LossConfig, temperature: float) -> Self | None:
        """Return the loss if it has a weight."""
        return cls(temperature, weight=config.consistency) if config.consistency else None

    def forward(self, inputs: LossInputs) -> Tensor:
        translations, translation_of = inputs.translation_embeddings, inputs.translation_of
        assert translations is not None, "consistency requires translated queries"
        assert translation_of is not None, "consistency requires the queries' indices"
        passages = inputs.ranks.gather(inputs.passage_embeddings)
        queries = inputs.query_embeddings[translation_of]

        def divergence(rows: slice, scores: Sequence[Tensor]) -> Tensor:
            log_p, log_r = (torch.log_softmax(of_side, dim=1) for of_side in scores)  # (T, passages)
            return (((log_p.exp() - log_r.exp()) * (log_p - log_r)).sum(1) / 2).sum()

        total = sum_over_tiles(divergence, [queries, translations], passages, self.temperature)
        return inputs.ranks.loss_weight * total / inputs.num_pairs
