"""InfoNCE with in-batch and hard negatives."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from hbt_ray.config import LossConfig
from hbt_ray.losses.base import Loss, LossInputs, RankLayout


class InfoNCE(Loss):
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), a mean over the pairs of a batch.

        loss_i = -log( exp(q_i . d_i / t) / sum_j exp(q_i . d_j / t) )

    The sum is over the pair's positive and all passages that are not known to be relevant to the query. Left out are
    passages with the same text as d_i, and the positives of queries with the same text as q_i.

    With K positives per query (Nie et al. 2024, "1-to-K contrastive learning", arXiv 2406.18254), the loss is the mean
    of K such terms. The other positives are left out of each term's sum, because they are known to be relevant.

    Args:
        temperature: t.
        symmetric: take the mean of this and of the loss in the reverse direction, in which each positive passage is
            compared with all queries. Hard negatives have no part in it.
    """

    def __init__(self, temperature: float, *, symmetric: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.symmetric = symmetric

    @classmethod
    def from_config(cls, config: LossConfig, temperature: float) -> Self:
        """Return the loss; it cannot be switched off."""
        return cls(temperature, symmetric=config.symmetric)

    def forward(self, inputs: LossInputs) -> Tensor:
        queries, query_ids = inputs.query_embeddings, inputs.query_ids
        passages, passage_ids, positives = inputs.passage_embeddings, inputs.passage_ids, inputs.positives
        loss = directed_info_nce(
            queries,
            passages,
            query_ids,
            passage_ids,
            query_ids.repeat_interleave(positives)[:, None],
            ranks=inputs.ranks,
            temperature=self.temperature,
            positives=positives,
        )
        if self.symmetric:
            # The same false negatives are left out: if two pairs have the same query, or any passage in common, each
            # pair's passages are relevant to the other's query.
            num_positives = inputs.num_pairs * positives
            anchors, anchor_ids = passages[:num_positives], passage_ids[:num_positives].view(-1, positives)
            reverse = [
                directed_info_nce(
                    anchors[k::positives],
                    queries,
                    anchor_ids[:, k],
                    query_ids,
                    anchor_ids,
                    ranks=inputs.ranks,
                    temperature=self.temperature,
                )
                for k in range(positives)
            ]
            loss = (loss + torch.stack(reverse).mean()) / 2
        return loss


def directed_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    anchor_ids: Tensor,
    candidate_ids: Tensor,
    matching_anchor_ids: Tensor,
    *,
    ranks: RankLayout,
    temperature: float,
    positives: int = 1,
) -> Tensor:
    """Compute InfoNCE in one direction, the rank's mean times its `loss_weight`.

    1. Gather the candidates of all ranks.
    2. Score each anchor against each candidate.
    3. Mask false negatives.
    4. Take the cross-entropy of each anchor and positive, and its mean.

    Args:
        anchors: (B, D) unit vectors of queries; in the reverse direction of passages.
        candidates: (B * (K + N), D) unit vectors: the anchors' positives, then N negatives per pair.
        anchor_ids: (B,) equal for equal texts.
        candidate_ids: (B * (K + N),) equal for equal texts.
        matching_anchor_ids: (B * K, W) of each positive, the ids of all anchors that it belongs to.
        ranks: the layout of the global batch.
        temperature: divides scores.
        positives: K.
    """
    num_pairs = len(anchors)
    # 1. Gather. Hard negatives belong to no anchor: the zeros in their rows are masked by `is_positive`.
    all_matching_ids = candidate_ids.new_zeros(len(candidates), matching_anchor_ids.shape[1])
    all_matching_ids[: num_pairs * positives] = matching_anchor_ids
    candidates_per_rank = ranks.rows_per_rank(candidates)
    candidates, candidate_ids, all_matching_ids = map(ranks.gather, (candidates, candidate_ids, all_matching_ids))
    is_positive = torch.cat(
        [
            torch.arange(num_candidates) < rank_pairs * positives
            for num_candidates, rank_pairs in zip(candidates_per_rank, ranks.pairs_per_rank, strict=True)
        ]
    ).to(anchors.device)
    offset = sum(candidates_per_rank[: ranks.rank])
    positive_index = offset + torch.arange(num_pairs * positives, device=anchors.device)
    # 2. Score
    scores = anchors @ candidates.T / temperature  # (B, candidates)
    # 3. Mask
    false_negative = (candidate_ids[positive_index, None] == candidate_ids[None]).view(num_pairs, positives, -1).any(1)
    false_negative |= (anchor_ids[:, None, None] == all_matching_ids[None]).any(2) & is_positive[None]
    # 4. One row for each anchor and positive: (B * K, candidates)
    scores, false_negative = (
        rows[:, None].expand(-1, positives, -1).flatten(0, 1) for rows in (scores, false_negative)
    )
    false_negative[torch.arange(len(positive_index)), positive_index] = False
    masked = scores.masked_fill(false_negative, -torch.inf)
    return ranks.loss_weight * torch.nn.functional.cross_entropy(masked, positive_index)
