"""The passages that are searched, in one shard or several, in this process or in others.

Legend: Q queries, P passages, D width, R relevant passages of the query that has most, S shards. Passages are numbered
in the order of their ids; a span is some of them (see `passage_shard`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from hbt_ray.errors import UserError
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.exact_search import TopK, merge_top_k
from hbt_ray.retrieval.passage_shard import PassageIndexShard, Span, is_within

T = TypeVar("T")


class ShardBackend(Protocol):
    """The shards of an index, wherever they are.

    Each method calls the method of `PassageIndexShard` of that name on every shard, and returns S results in the order
    of the shards.
    """

    def size(self) -> list[int]: ...

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]: ...

    def exact_top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]: ...

    def scores_of(self, queries: np.ndarray, passage_indices: np.ndarray) -> list[np.ndarray]: ...

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, passage_indices: np.ndarray, spans: Sequence[Span]
    ) -> list[np.ndarray]: ...

    def vectors_of(self, passage_indices: np.ndarray) -> list[np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class ShardsOnDemand:
    """Shards that are opened whenever they are searched, one after the other: memory holds one of them."""

    open_shard: Callable[[int], PassageIndexShard]  # by number
    count: int

    def __iter__(self) -> Iterator[PassageIndexShard]:
        return map(self.open_shard, range(self.count))


class LocalShards:
    """A `ShardBackend` of shards in this process."""

    def __init__(self, shards: Sequence[PassageIndexShard] | ShardsOnDemand) -> None:
        self._shards = shards

    def size(self) -> list[int]:
        return self._each(lambda shard: shard.size())

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]:
        return self._each(lambda shard: shard.top_k(queries, k, span))

    def exact_top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]:
        return self._each(lambda shard: shard.exact_top_k(queries, k, span))

    def scores_of(self, queries: np.ndarray, passage_indices: np.ndarray) -> list[np.ndarray]:
        return self._each(lambda shard: shard.scores_of(queries, passage_indices))

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, passage_indices: np.ndarray, spans: Sequence[Span]
    ) -> list[np.ndarray]:
        return self._each(lambda shard: shard.counts_above(queries, scores, passage_indices, spans))

    def vectors_of(self, passage_indices: np.ndarray) -> list[np.ndarray]:
        return self._each(lambda shard: shard.vectors_of(passage_indices))

    def _each(self, method: Callable[[PassageIndexShard], T]) -> list[T]:
        return list(map(method, self._shards))  # a loop's variable would hold one shard while the next is opened


class PassageIndex:
    """Passages in the order of their ids, searched in all shards of a backend.

    It has the methods of `PassageIndexShard`, so the shards of one process can act as one shard of a larger index.
    """

    def __init__(self, shards: ShardBackend, depth: int | None = None) -> None:
        """Search the shards of a backend.

        Args:
            shards: where the passages are.
            depth: where a shard's index is approximate, how many passages of each query are ranked; None: all, so that
                ranks are exact.
        """
        self._shards = shards
        self.depth = depth

    @classmethod
    def of(cls, *shards: PassageIndexShard, depth: int | None = None) -> PassageIndex:
        """Return an index over shards in this process."""
        return cls(LocalShards(shards), depth)

    def size(self) -> int:
        """Return the number of passages."""
        return int(sum(self._shards.size()))

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> TopK:
        """Return the first k passages of a span, as `PassageIndexShard.top_k` does, but at most `depth`.

        What an approximate index finds depends on the number searched for, so that is always `depth`.
        """
        depth = k if self.depth is None else self.depth
        scores, indices = merge_top_k(self._shards.top_k(queries, depth, span), depth)
        return scores[:, :k], indices[:, :k]

    def exact_top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> TopK:
        """Return what `top_k` returns for flat indexes, whatever indexes the shards have."""
        return merge_top_k(self._shards.exact_top_k(queries, k, span), k)

    def scores_of(self, queries: np.ndarray, passage_indices: np.ndarray) -> np.ndarray:
        """Return the exact scores of some passages of each query: (Q, D), (Q, R) -> (Q, R) float32, NaN for none."""
        scores = np.stack(self._shards.scores_of(queries, passage_indices))  # (S, Q, R)
        found = ~np.isnan(scores)
        return np.where(found.any(axis=0), np.where(found, scores, 0).sum(axis=0), np.nan).astype(np.float32)

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, passage_indices: np.ndarray, spans: Sequence[Span]
    ) -> np.ndarray:
        """Count the passages that rank above given ones: (spans, Q, R); see `PassageIndexShard.counts_above`."""
        counts: np.ndarray = np.sum(self._shards.counts_above(queries, scores, passage_indices, spans), axis=0)
        return counts

    def vectors_of(self, passage_indices: np.ndarray) -> np.ndarray:
        """Return the vectors of some passages: (N,) -> (N, D) float32; of a passage in windows, the first one's."""
        vectors: np.ndarray = np.sum(self._shards.vectors_of(np.asarray(passage_indices, np.int64)), axis=0)
        return vectors

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[Span] = (slice(None),)) -> np.ndarray:
        """Return the ranks of the relevant passages within spans, counted from 1.

        1. Compute the exact scores of the relevant passages, each in its shard.
        2. Count in every shard the passages that rank above each of them; a rank is one more than their sum.

        Args:
            queries: (Q, D) float32.
            relevant: (Q, R) passage indices, -1 where a query has fewer.
            spans: within which passages are ranked.

        Returns:
            (spans, Q, R) int32; 0 where the passage is not in the span, NOT_RETRIEVED where it is beyond `depth`.

        Raises:
            UserError: a vector holds NaN or infinity, or widths differ.
        """
        size = self.size()
        spans = [slice(*span.indices(size)) if isinstance(span, slice) else span for span in spans]
        if self.depth is not None:
            return np.stack([self._ranks_in_list(queries, relevant, span, self.depth) for span in spans])
        above = self.counts_above(queries, self.scores_of(queries, relevant), relevant, spans)
        is_in_span = np.stack([is_within(relevant, span) for span in spans])
        ranks: np.ndarray = np.where(is_in_span, 1 + above, 0).astype(np.int32)
        return ranks

    def _ranks_in_list(self, queries: np.ndarray, relevant: np.ndarray, span: Span, depth: int) -> np.ndarray:
        """Return (Q, R) ranks among the first `depth` that the indexes find; NOT_RETRIEVED for those they miss."""
        if not isinstance(span, slice):
            raise UserError("an index that is not flat needs a language's passages side by side; write index=flat")
        _, found = self.top_k(queries, depth, (span.start, span.stop))
        ranks = np.where(is_within(relevant, span), NOT_RETRIEVED, 0).astype(np.int32)
        for slot in range(relevant.shape[1]):
            rows, positions = np.nonzero((found == relevant[:, slot, None]) & (relevant[:, slot, None] >= 0))
            ranks[rows, slot] = positions + 1
        return ranks

    def index_recall(self, queries: np.ndarray, span: tuple[int, int] | None = None, k: int = 10) -> float:
        """Return the fraction of the exact first k passages of a span that the shards' indexes find among theirs."""
        _, exact = self.exact_top_k(queries, k, span)
        _, found = self.top_k(queries, k, span)
        hits = [len(set(one) & set(other)) for one, other in zip(exact.tolist(), found.tolist(), strict=True)]
        return float(np.mean(hits) / exact.shape[1])


def shard_bounds(size: int, shards: int) -> list[tuple[int, int]]:
    """Split `size` passages into shards of neighbours whose sizes differ by at most one; empty shards are left out.

    >>> shard_bounds(10, 3)
    [(0, 4), (4, 7), (7, 10)]
    """
    quotient, remainder = divmod(size, shards)
    starts = [number * quotient + min(number, remainder) for number in range(shards + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(starts) if stop > start]


def cut_at(first: int, last: int, edges: Iterable[int]) -> list[tuple[int, int]]:
    """Cut a shard at the edges within it, such as those between languages.

    >>> cut_at(4, 7, [0, 5, 10])
    [(4, 5), (5, 7)]
    """
    inner = sorted({edge for edge in edges if first < edge < last})
    return list(itertools.pairwise([first, *inner, last]))
