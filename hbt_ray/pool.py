"""The passages that are searched: one array of vectors, or shards of it that lie elsewhere.

Legend: Q queries, P passages, D width, R relevant passages of the query that has most, S shards. Columns count over the
whole pool; a span is a slice of them, such as the passages of one language.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from hbt_ray import metrics
from hbt_ray.index import Kind, SearchIndex, merge_top_k, top_k

_SCORES_AT_ONCE = 2**24  # of a shard


class Pool(Protocol):
    """Passages in the order of their ids, as vectors that can be asked."""

    @property
    def depth(self) -> int | None:
        """How many passages of each query are looked at; None: all, so that ranks are exact."""

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[metrics.Pool]) -> np.ndarray:
        """Ranks as `metrics.ranks_of_relevant` gives them, (spans, Q, R); ABSENT where `depth` did not reach."""

    def top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The first passages of each query, as `SearchIndex.search` gives them."""

    def vectors(self, columns: Sequence[int]) -> np.ndarray:
        """(N, D) float32 of some passages."""


class ArrayPool:
    """All vectors in this process."""

    depth = None

    def __init__(self, vectors: np.ndarray, starts: np.ndarray | None = None) -> None:
        """
        Args:
            vectors: (P, D) float32; or of all windows of all passages, one after the other.
            starts: (P,) where the windows of each passage begin; the best one speaks for it.
        """
        self._vectors = vectors
        self._starts = starts

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[metrics.Pool]) -> np.ndarray:
        return metrics.ranks_of_relevant(queries, self._vectors, relevant, spans, starts=self._starts)

    def top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        index = SearchIndex(self._vectors)
        if self._starts is None:
            return index.search(queries, k)
        passage_of = np.searchsorted(self._starts, np.arange(len(self._vectors)), "right") - 1
        k = min(k, len(self._starts))
        scores, columns = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        unfinished, depth = np.arange(len(queries)), 2 * k
        while len(unfinished):
            found_scores, found = index.search(queries[unfinished], depth)
            still = []
            for row, own_scores, own in zip(unfinished, found_scores, passage_of[found], strict=True):
                first = np.sort(np.unique(own, return_index=True)[1])[:k]  # the best window of each passage
                if len(first) < k:
                    still.append(row)
                else:
                    scores[row], columns[row] = own_scores[first], own[first]
            unfinished, depth = np.array(still, np.int64), 2 * depth
        return scores, columns

    def vectors(self, columns: Sequence[int]) -> np.ndarray:
        """Of a passage in windows, that of the first."""
        rows = list(columns) if self._starts is None else self._starts[list(columns)]
        return self._vectors[rows]


class Shard:
    """Neighbouring passages of a pool."""

    def __init__(self, vectors: np.ndarray, first: int, kind: Kind = "flat") -> None:
        """
        Args:
            vectors: (N, D) float32.
            first: the column of the first of them.
        """
        self._vectors = vectors
        self._first = first
        self._index = SearchIndex(vectors, kind)

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors that differ, and which of them each passage has: equal ones are scored once, so that they tie."""
        return metrics.distinct_rows(self._vectors)

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `Pool.top_k`, of this shard's passages; with an approximate index, of those in a span."""
        own = None if span is None else (span[0] - self._first, span[1] - self._first)
        scores, columns = self._index.search(queries, k, own)
        return scores, np.where(columns < 0, columns, columns + self._first)

    def exact_top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `top_k`, whatever index the shard has."""
        scores, columns = top_k(queries, self._vectors, k)
        return scores, columns + self._first

    def scores_of(self, queries: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Scores of the passages at (Q, R) columns; NaN for those of other shards."""
        own = (columns >= self._first) & (columns < self._first + len(self._vectors))
        found = np.full(columns.shape, np.nan, np.float32)
        for rows, scores in self._scored(queries):
            row, slot = np.nonzero(own[rows])
            found[rows.start + row, slot] = scores[row, columns[rows][row, slot] - self._first]
        return found

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, columns: np.ndarray, spans: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """How many passages of this shard stand above each of some others, within the spans that these are in.

        Returns:
            (spans, Q, R) int64.

        Args:
            scores: (Q, R) of the others; NaN for none.
            columns: (Q, R) of the others.
            spans: first column and the one after the last of each.
        """
        counts = np.zeros((len(spans), *columns.shape), np.int64)
        for rows, products in self._scored(queries):
            mask = np.empty((len(products), -(-self.size() // 8) * 8), bool)
            for number, (start, stop) in enumerate(spans):
                begin, end = max(start - self._first, 0), min(stop - self._first, self.size())
                wanted = ~np.isnan(scores[rows]) & (columns[rows] >= start) & (columns[rows] < stop)
                for slot in np.flatnonzero(wanted.any(axis=0)) if end > begin else ():
                    asked = np.flatnonzero(wanted[:, slot])
                    own = columns[rows, slot][asked] - self._first - begin
                    lines, threshold = products[asked, begin:end], scores[rows, slot][asked]
                    counts[number, rows.start + asked, slot] = metrics.count_above(lines, threshold, own, mask)
        return counts

    def size(self) -> int:
        """How many passages there are."""
        return len(self._vectors)

    def vectors_of(self, columns: np.ndarray) -> np.ndarray:
        """(N, D) of those of (N,) columns that are here, zeros for others."""
        own = (columns >= self._first) & (columns < self._first + len(self._vectors))
        found = np.zeros((len(columns), self._vectors.shape[1]), np.float32)
        found[own] = self._vectors[columns[own] - self._first]
        return found

    def _scored(self, queries: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, scores of their queries and all passages here) of a few queries at a time."""
        distinct, column_of = self._distinct
        block = max(1, _SCORES_AT_ONCE // max(len(self._vectors), 1))
        for first in range(0, len(queries), block):
            products = queries[first : first + block] @ distinct.T
            whole = products if len(distinct) == len(self._vectors) else products[:, column_of]
            yield slice(first, first + len(products)), whole


class ShardedPool:
    """A pool whose shards answer together, wherever they are."""

    def __init__(self, ask: Callable[..., list[Any]], depth: int | None = None) -> None:
        """
        Args:
            ask: `ask("top_k", *arguments)` is what `Shard.top_k(*arguments)` gives, of every shard in their order.
            depth: where the shards' index is approximate, how many passages of each query it looks for.
        """
        self._ask = ask
        self.depth = depth

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[metrics.Pool]) -> np.ndarray:
        size = sum(self._ask("size"))
        bounds = []
        for span in spans:
            if not isinstance(span, slice):
                raise ValueError("shards hold languages side by side: passage ids must begin with the language")
            start, stop, _ = span.indices(size)
            bounds.append((start, stop))
        if self.depth is not None:
            return np.stack([self._listed(queries, relevant, span) for span in bounds])
        found = np.stack(self._ask("scores_of", queries, relevant))  # (S, Q, R)
        there = ~np.isnan(found)
        scores = np.where(there.any(axis=0), np.where(there, found, 0).sum(axis=0), np.nan).astype(np.float32)
        above = sum(self._ask("counts_above", queries, scores, relevant, bounds))
        inside = np.stack([(relevant >= start) & (relevant < stop) for start, stop in bounds])
        ranks: np.ndarray = np.where(inside, 1 + above, 0).astype(np.int32)
        return ranks

    def _listed(self, queries: np.ndarray, relevant: np.ndarray, span: tuple[int, int]) -> np.ndarray:
        """(Q, R) ranks in what the indexes list of a span; ABSENT for passages of the span that they miss."""
        assert self.depth is not None
        _, columns = merge_top_k(self._ask("top_k", queries, self.depth, span), self.depth)
        ranks = np.where((relevant >= span[0]) & (relevant < span[1]), metrics.ABSENT, 0).astype(np.int32)
        for slot in range(relevant.shape[1]):
            row, place = np.nonzero((columns == relevant[:, slot, None]) & (relevant[:, slot, None] >= 0))
            ranks[row, slot] = place + 1
        return ranks

    def top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return merge_top_k(self._ask("top_k", queries, k), k)

    def recall_of_index(self, queries: np.ndarray, k: int = 10) -> float:
        """Share of the exact first k passages that the shards' index finds among its first k."""
        _, exact = merge_top_k(self._ask("exact_top_k", queries, k), k)
        _, found = self.top_k(queries, k)
        hits = [len(set(one) & set(other)) for one, other in zip(exact.tolist(), found.tolist(), strict=True)]
        return float(np.mean(hits) / exact.shape[1])

    def vectors(self, columns: Sequence[int]) -> np.ndarray:
        found: np.ndarray = np.sum(self._ask("vectors_of", np.asarray(columns, np.int64)), axis=0)
        return found


def shard_bounds(size: int, shards: int) -> list[tuple[int, int]]:
    """Where neighbouring passages are cut: sizes differ by one at most.

    >>> shard_bounds(10, 3)
    [(0, 4), (4, 7), (7, 10)]
    """
    each, more = divmod(size, shards)
    starts = [number * each + min(number, more) for number in range(shards + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(starts) if stop > start]
