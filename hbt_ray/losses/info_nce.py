"""InfoNCE with in-batch and hard negatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hbt_ray.config import LossConfig
from hbt_ray.losses.base import Loss, LossInputs, RankLayout
from hbt_ray.losses.score_tiles import sum_over_tiles


class InfoNCE(Loss):
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), a mean over the pairs of a batch.

        loss_i = -log( exp(q_i . d_i / t) / sum_j exp(q_i . d_j / t) )

    The sum is over the pair's positive and all passages that are not known to be relevant to the query. Left out are
    passages with the same text as d_i, the positives of queries with the same text as q_i, and, in all languages, the
    passages of items that have a text in common with the pair's item.

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
        query_components, passage_components = (
            torch.zeros_like(ids) if components is None else components
            for ids, components in (
                (query_ids, inputs.query_components),
                (passage_ids, inputs.passage_components),
            )
        )
        loss = directed_info_nce(
            queries,
            passages,
            TextIds(query_ids, query_components),
            TextIds(passage_ids, passage_components),
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
                    TextIds(anchor_ids[:, k], query_components),
                    TextIds(query_ids, query_components),
                    anchor_ids,
                    ranks=inputs.ranks,
                    temperature=self.temperature,
                )
                for k in range(positives)
            ]
            loss = (loss + torch.stack(reverse).mean()) / 2
        return loss


class TextIds(NamedTuple):
    """Which texts are known to be relevant to each other."""

    ids: Tensor  # (N,) int64, equal for equal texts
    components: Tensor  # (N,) int64, equal for texts of items that have texts in common in any language; 0: none


def directed_info_nce(
    anchors: Tensor,
    candidates: Tensor,
    anchor_texts: TextIds,
    candidate_texts: TextIds,
    matching_anchor_ids: Tensor,
    *,
    ranks: RankLayout,
    temperature: float,
    positives: int = 1,
) -> Tensor:
    """Compute InfoNCE in one direction, the rank's mean times its `loss_weight`.

    1. Gather the candidates of all ranks, and find the false negatives among them.
    2. Score each anchor against each candidate, in tiles, mask false negatives, and take the cross-entropy of each
       anchor and positive.
    3. Take the mean.

    Args:
        anchors: (B, D) unit vectors of queries; in the reverse direction of passages.
        candidates: (B * (K + N), D) unit vectors: the anchors' positives, then N negatives per pair.
        anchor_texts: of the B anchors.
        candidate_texts: of the B * (K + N) candidates.
        matching_anchor_ids: (B * K, W) of each positive, the ids of all anchors that it belongs to.
        ranks: the layout of the global batch.
        temperature: divides scores.
        positives: K.
    """
    # 1.
    gathered = ranks.gather(candidates)
    false_negatives, positive_index = find_false_negatives(
        anchor_texts, candidate_texts, matching_anchor_ids, ranks=ranks, positives=positives
    )

    # 2. One row for each anchor and positive: (T * K, candidates)
    def cross_entropy(rows: slice, scores: Sequence[Tensor]) -> Tensor:
        of_positives = scores[0][:, None].expand(-1, positives, -1).flatten(0, 1)
        masked = of_positives.masked_fill(false_negatives(rows), -torch.inf)
        index = positive_index[rows].flatten()
        return torch.nn.functional.cross_entropy(masked, index, reduction="sum")

    # 3.
    total = sum_over_tiles(cross_entropy, [anchors], gathered, temperature, copies=positives)
    return ranks.loss_weight * (total / positive_index.numel())


def find_false_negatives(
    anchor_texts: TextIds,
    candidate_texts: TextIds,
    matching_anchor_ids: Tensor,
    *,
    ranks: RankLayout,
    positives: int,
) -> tuple[Callable[[slice], Tensor], Tensor]:
    """Find the candidates of all ranks that are known to be relevant to an anchor, without the positive itself.

    Args:
        anchor_texts: see `directed_info_nce`.
        candidate_texts: see there.
        matching_anchor_ids: see there.
        ranks: see there.
        positives: K.

    Returns:
        A function from T anchors to a mask with a row for each of these and positive, (T * K, candidates) bool; and the
        indices of the positives among the candidates, (B, K).
    """
    num_pairs, num_candidates = len(anchor_texts.ids), len(candidate_texts.ids)
    # Hard negatives belong to no anchor: the zeros in their rows are masked by `is_positive`.
    texts = candidate_texts.ids.new_zeros(num_candidates, 2 + matching_anchor_ids.shape[1])
    texts[:, 0], texts[:, 1] = candidate_texts
    texts[: num_pairs * positives, 2:] = matching_anchor_ids
    candidates_per_rank = ranks.rows_per_rank(texts)
    texts = ranks.gather(texts)
    ids, components, matching_ids = texts[:, 0], texts[:, 1], texts[:, 2:]
    is_positive = torch.cat(
        [
            torch.arange(of_rank) < rank_pairs * positives
            for of_rank, rank_pairs in zip(candidates_per_rank, ranks.pairs_per_rank, strict=True)
        ]
    ).to(ids.device)
    offset = sum(candidates_per_rank[: ranks.rank])
    positive_index = (offset + torch.arange(num_pairs * positives, device=ids.device)).view(num_pairs, positives)

    def mask_of(rows: slice) -> Tensor:
        index = positive_index[rows]
        mask = (ids[index][:, :, None] == ids).any(1)
        mask |= (anchor_texts.ids[rows, None, None] == matching_ids[None]).any(2) & is_positive[None]
        mask |= (anchor_texts.components[rows, None] == components[None]) & (components != 0)[None]
        mask = mask[:, None].repeat(1, positives, 1).flatten(0, 1)
        mask[torch.arange(len(mask)), index.flatten()] = False
        return mask

    return mask_of, positive_index
