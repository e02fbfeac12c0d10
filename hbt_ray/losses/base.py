"""The interface of a loss: its inputs, and how it is divided among ranks.

Legend: B pairs on this rank, K positives and N hard negatives per pair, S translated queries, D and E widths of
embeddings. All embeddings have unit length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbt_ray.config import LossConfig
from hbt_ray.losses.gather import all_gather_with_grad


@dataclass(frozen=True, slots=True)
class RankLayout:
    """The division of a global batch among ranks, from the view of one rank."""

    loss_weight: float
    """num_pairs * world_size / global_pairs: the ranks' plain mean of their weighted means is the global mean."""
    pairs_per_rank: Sequence[int]
    """Pairs of the ranks whose passages are gathered; only this rank's if negatives are not gathered."""
    rank: int
    """Index of this rank in `pairs_per_rank`."""

    @classmethod
    def single_process(cls, num_pairs: int) -> Self:
        """Return the layout of a batch that is not divided."""
        return cls(1.0, [num_pairs], 0)

    @classmethod
    def of_process_group(cls, num_pairs: int, pairs_per_rank: Sequence[int], *, gather_negatives: bool) -> Self:
        """Return the layout of this rank in torch's default process group, or of one process without a group.

        Args:
            num_pairs: pairs of this rank.
            pairs_per_rank: pairs of every rank of the group.
            gather_negatives: compare with the passages of all ranks; each must have N negatives per pair.
        """
        if not dist.is_initialized():
            return cls.single_process(num_pairs)
        loss_weight = num_pairs * dist.get_world_size() / sum(pairs_per_rank)
        if gather_negatives:
            return cls(loss_weight, pairs_per_rank, dist.get_rank())
        return cls(loss_weight, [num_pairs], 0)

    def rows_per_rank(self, local: Tensor) -> list[int]:
        """Return how many rows each rank has of a tensor that has the same number of rows for every pair."""
        rows_per_pair = len(local) // self.pairs_per_rank[self.rank]
        return [num_pairs * rows_per_pair for num_pairs in self.pairs_per_rank]

    def gather(self, local: Tensor) -> Tensor:
        """Concatenate such a tensor over ranks, with gradient. Collective if negatives are gathered."""
        return all_gather_with_grad(local, self.rows_per_rank(local))


@dataclass(frozen=True, slots=True)
class TeacherEmbeddings:
    """A frozen teacher's unit vectors of the same texts."""

    queries: Tensor  # (B, E)
    passages: Tensor  # (B * (K + N), E)


@dataclass(frozen=True, slots=True)
class LossInputs:
    """A rank's slice of a batch, embedded."""

    query_embeddings: Tensor  # (B, D)
    passage_embeddings: Tensor  # (B * (K + N), D): the K positives of pair 0, of pair 1, ..., then the negatives
    query_ids: Tensor  # (B,) int64 hashes, equal for equal texts
    passage_ids: Tensor  # (B * (K + N),) int64 hashes
    ranks: RankLayout
    positives: int = 1  # K
    translation_embeddings: Tensor | None = None  # (S, D)
    translation_of: Tensor | None = None  # (S,) index of the query that each is a translation of
    teacher: TeacherEmbeddings | None = None
    # Equal for queries, and passages that answer them, whose items have texts in common in any language; 0: none.
    query_components: Tensor | None = None  # (B,) int64; None: all 0
    passage_components: Tensor | None = None  # (B * (K + N),) int64

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.query_embeddings)

    @property
    def width(self) -> int:
        """D."""
        return self.query_embeddings.shape[1]

    def truncated(self, width: int) -> LossInputs:
        """Return a copy with truncated embeddings. The teacher's are not truncated."""
        if width == self.width:
            return self
        queries, translations = self.query_embeddings, self.translation_embeddings
        if translations is None:
            queries = truncate(queries, width)
        else:
            # Together, because the last bit of a norm may depend on the number of rows that are reduced at once.
            both = truncate(torch.cat([queries, translations]), width)
            queries, translations = both.split([len(queries), len(translations)])
        return replace(
            self,
            query_embeddings=queries,
            passage_embeddings=truncate(self.passage_embeddings, width),
            translation_embeddings=translations,
        )


def truncate(embeddings: Tensor, width: int) -> Tensor:
    """Return the first `width` values of (N, D) unit vectors, normalized to unit length again."""
    if width == embeddings.shape[1]:
        return embeddings
    return torch.nn.functional.normalize(embeddings[:, :width], dim=1)


class Loss(nn.Module, ABC):
    """A term of the training loss.

    Args:
        weight: of the term in the sum.
    """

    requires_translations: ClassVar[bool] = False
    """True if batches must have translated queries; `LossConfig.requires_translations` must agree."""
    requires_teacher: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @classmethod
    @abstractmethod
    def from_config(cls, config: LossConfig, temperature: float) -> Self | None:
        """Return the loss as configured, or None if it is switched off.

        Args:
            config: the section `loss`.
            temperature: `train.temperature`.
        """

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Tensor:
        """Compute the mean over this rank's pairs, multiplied by `inputs.ranks.loss_weight`, without `weight`."""
