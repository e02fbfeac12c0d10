"""The passages that are searched, in one shard or in several that may lie elsewhere.

Legend: Q queries, P passages, W their windows, D width, R relevant passages of the query that has most, S shards.
Columns count passages over the whole pool; a span is some of them, such as the passages of one language: a slice, or
ascending columns.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hbt_ray.errors import UserError
from hbt_ray.retrieval.exact_scores import (
    NOT_RETRIEVED,
    check_vectors,
    count_higher_scoring,
    exact_scores,
    float32_error_bound,
)
from hbt_ray.retrieval.faiss_index import (
    LEAST_APPROXIMATE,
    ApproximateIndex,
    IndexType,
    merge_top_k,
    sort_by_exact_score,
    top_k,
)

Span = slice | np.ndarray
SCORES_AT_ONCE = 2**24  # of a shard
_MOST_QUERIES_AT_ONCE = 512
_ROWS = 64  # of scores, compared at once: few enough to stay in a cache of the processor


class PassageIndexShard:
    """Neighbouring passages of a pool. The score of a passage in windows is that of its best one."""

    def __init__(self, vectors: np.ndarray, first: int = 0, kind: IndexType = "flat", starts: np.ndarray | None = None):
        """
        Args:
            vectors: (W, D) float32, of all windows of the passages one after the other.
            first: the column of the first passage.
            kind: of the index; one with few vectors is searched exactly, which is as fast.
            starts: (P,) where the windows of each passage begin; None: each has one.

        Raises:
            UserError: a vector holds NaN or infinity.
        """
        check_vectors(vectors[:0], vectors)
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._first = first
        # Where the windows of each passage begin and end, (P + 1,).
        self._edges = None if starts is None else np.append(starts, len(vectors))
        exact = kind == "flat" or len(vectors) < LEAST_APPROXIMATE
        self._index = None if exact else ApproximateIndex(self._vectors, kind)

    def size(self) -> int:
        """How many passages there are."""
        return len(self._vectors) if self._edges is None else len(self._edges) - 1

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The first k passages of this shard, as `index.top_k` gives them; none where it lies outside of the span.

        An approximate index may find fewer: scores -inf and columns -1 stand for those.
        """
        check_vectors(queries, self._vectors[:0])
        index = self._index
        if index is None:
            return self.exact_top_k(queries, k, span)
        return self._passages_of(
            lambda rows, depth: sort_by_exact_score(queries[rows], self._vectors, index.search(queries[rows], depth)),
            len(queries),
            k if self._is_in(span) else 0,
        )

    def exact_top_k(
        self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `top_k`, whatever index the shard has."""
        return self._passages_of(
            lambda rows, depth: top_k(queries[rows], self._vectors, depth),
            len(queries),
            k if self._is_in(span) else 0,
        )

    def _is_in(self, span: tuple[int, int] | None) -> bool:
        if span is None or (span[0] <= self._first and self._end <= span[1]):
            return True
        if self._end <= span[0] or span[1] <= self._first:
            return False
        raise ValueError(f"the span {span} cuts a shard from {self._first} to {self._end}; cut shards at spans")

    def _passages_of(
        self, search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], num_queries: int, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first k passages of a search among windows: of some queries, so many windows of each."""
        k = min(k, self.size())
        if not k:
            return np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64)
        if self._edges is None:
            scores, columns = search(np.arange(num_queries), k)
            return scores, np.where(columns < 0, columns, columns + self._first)
        passage_of = np.repeat(np.arange(self.size()), np.diff(self._edges))
        scores = np.full((num_queries, k), -np.inf, np.float32)
        columns = np.full((num_queries, k), -1, np.int64)
        unfinished, depth = np.arange(num_queries), 2 * k
        while len(unfinished):
            depth = min(depth, len(self._vectors))
            still = []
            for row, line, own in zip(unfinished, *search(unfinished, depth), strict=True):
                there = own >= 0
                passages = passage_of[own[there]]
                best = np.sort(np.unique(passages, return_index=True)[1])  # the best window of each passage
                if len(best) < k and depth < len(self._vectors):
                    still.append(row)
                    continue
                best = best[:k]
                scores[row, : len(best)] = line[there][best]
                columns[row, : len(best)] = passages[best] + self._first
            unfinished, depth = np.array(still, np.int64), 2 * depth
        return scores, columns

    def scores_of(self, queries: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Exact scores of the passages at (Q, R) columns; NaN for those of other shards."""
        check_vectors(queries, self._vectors[:0])
        found = np.full(columns.shape, np.nan, np.float32)
        rows, slots = np.nonzero((columns >= self._first) & (columns < self._first + self.size()))
        found[rows, slots] = self._exact(queries, rows, columns[rows, slots] - self._first)
        return found

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, columns: np.ndarray, spans: Sequence[Span]
    ) -> np.ndarray:
        """How many passages of this shard stand above each of some others, within the spans that these are in.

        Args:
            scores: (Q, R) exact ones of the others; NaN for none.
            columns: (Q, R) of the others.

        Returns:
            (spans, Q, R) int64.
        """
        counts = np.zeros((len(spans), *columns.shape), np.int64)
        spans_here = [self._placed(span, columns) for span in spans]
        near = float32_error_bound(queries, self._vectors)
        block = max(1, min(_MOST_QUERIES_AT_ONCE, SCORES_AT_ONCE // max(len(self._vectors), 1)))
        # Kept for all blocks: fresh memory for each costs more time than the products do.
        products = np.empty((block, len(self._vectors)), np.float32)
        lines = products if self._edges is None else np.empty((block, self.size()), np.float32)

        def count(first: int, begin: int, end: int) -> None:
            rows = slice(first + begin, first + end)
            for number, placed in enumerate(spans_here):
                wanted = np.where(placed.inside[rows], scores[rows], np.nan)
                if np.isnan(wanted).all():
                    continue

                def exactly(asked: np.ndarray, places: np.ndarray, placed: _Placed = placed) -> np.ndarray:
                    return self._exact(queries, rows.start + asked, placed.passages[places])

                counts[number, rows] = count_higher_scoring(
                    lines[begin:end, placed.local], wanted, placed.own[rows], placed.here[rows], near[rows], exactly
                )

        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for first in range(0, len(queries), block):
                number = len(queries[first : first + block])
                np.matmul(queries[first : first + block], self._vectors.T, out=products[:number])
                if self._edges is not None:
                    np.maximum.reduceat(products[:number], self._edges[:-1], axis=1, out=lines[:number])
                begins = range(0, number, _ROWS)
                ends = [min(begin + _ROWS, number) for begin in begins]
                list(workers.map(count, [first] * len(begins), begins, ends))
        return counts

    def _placed(self, span: Span, columns: np.ndarray) -> _Placed:
        if isinstance(span, slice):
            begin, end = np.clip((span.start, span.stop), self._first, self._end).tolist()
            here = (columns >= begin) & (columns < end)
            local = slice(begin - self._first, end - self._first)
            return _Placed(local, np.arange(local.start, local.stop), columns - begin, here, _is_in(columns, span))
        own = span[(span >= self._first) & (span < self._end)]
        places = np.searchsorted(own, columns)
        here = np.isin(columns, own)
        return _Placed(
            own - self._first, own - self._first, np.where(here, places, places - 1), here, _is_in(columns, span)
        )

    @property
    def _end(self) -> int:
        return self._first + self.size()

    def _exact(self, queries: np.ndarray, rows: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """As `ranks.exact_scores`, of passages by their places in this shard."""
        if self._edges is None:
            return exact_scores(queries, self._vectors, rows, passages)
        begins, sizes = self._edges[passages], np.diff(self._edges)[passages]
        first = np.cumsum(sizes) - sizes
        windows = np.arange(sizes.sum()) + np.repeat(begins - first, sizes)
        asked = rows if len(rows) == 1 else np.repeat(rows, sizes)
        scores = exact_scores(queries, self._vectors, asked, windows)
        best: np.ndarray = np.maximum.reduceat(scores, first) if len(first) else scores
        return best

    def vectors_of(self, columns: np.ndarray) -> np.ndarray:
        """(N, D) of those of (N,) columns that are here, zeros for others; of one in windows, that of the first."""
        own = (columns >= self._first) & (columns < self._end)
        places = columns[own] - self._first
        found = np.zeros((len(columns), self._vectors.shape[1]), np.float32)
        found[own] = self._vectors[places if self._edges is None else self._edges[places]]
        return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a span and some passages stand within a shard: (Q, R) of the passages."""

    local: Span  # the shard's passages that are in the span
    passages: np.ndarray  # the same, as places in the shard
    own: np.ndarray  # places among them; of one that is not there, those at greater places are further to the right
    here: np.ndarray  # whether they are among them
    inside: np.ndarray  # whether they are in the span at all, in whichever shard


class PassageIndex:
    """Passages in the order of their ids, whose shards answer together, wherever they are.

    What a shard can be asked, a pool can be asked, so that one may stand for a shard of another.
    """

    def __init__(self, ask: Callable[..., list[Any]], depth: int | None = None) -> None:
        """
        Args:
            ask: `ask("top_k", *arguments)` returns `PassageIndexShard.top_k(*arguments)` of every shard, in order.
            depth: where a shard's index is approximate, how many passages of each query are looked at; None: all, so
                that ranks are exact.
        """
        self._ask = ask
        self.depth = depth

    @classmethod
    def of(cls, *shards: PassageIndexShard, depth: int | None = None) -> PassageIndex:
        """Shards in this process."""
        return cls(lambda question, *arguments: [getattr(shard, question)(*arguments) for shard in shards], depth)

    def size(self) -> int:
        return int(sum(self._ask("size")))

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return merge_top_k(self._ask("top_k", queries, k, span), k)

    def exact_top_k(
        self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return merge_top_k(self._ask("exact_top_k", queries, k, span), k)

    def scores_of(self, queries: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found = np.stack(self._ask("scores_of", queries, columns))  # (S, Q, R)
        there = ~np.isnan(found)
        return np.where(there.any(axis=0), np.where(there, found, 0).sum(axis=0), np.nan).astype(np.float32)

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, columns: np.ndarray, spans: Sequence[Span]
    ) -> np.ndarray:
        counts: np.ndarray = np.sum(self._ask("counts_above", queries, scores, columns, spans), axis=0)
        return counts

    def vectors_of(self, columns: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sum(self._ask("vectors_of", np.asarray(columns, np.int64)), axis=0)
        return found

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[Span] = (slice(None),)) -> np.ndarray:
        """Ranks of the relevant passages within spans: one more than the passages of the span that stand above.

        Args:
            queries: (Q, D) float32.
            relevant: (Q, R) columns, -1 where a query has fewer.

        Returns:
            (spans, Q, R) int32; 0 where the passage is not in the span, NOT_RETRIEVED where `depth` did not reach it.

        Raises:
            UserError: a vector holds NaN or infinity, or widths differ.
        """
        size = self.size()
        whole = [slice(*span.indices(size)) if isinstance(span, slice) else span for span in spans]
        if self.depth is not None:
            return np.stack([self._listed(queries, relevant, span) for span in whole])
        above = self.counts_above(queries, self.scores_of(queries, relevant), relevant, whole)
        inside = np.stack([_is_in(relevant, span) for span in whole])
        ranks: np.ndarray = np.where(inside, 1 + above, 0).astype(np.int32)
        return ranks

    def _listed(self, queries: np.ndarray, relevant: np.ndarray, span: Span) -> np.ndarray:
        """(Q, R) ranks in what the indexes list of a span; NOT_RETRIEVED for passages of the span that they miss."""
        assert self.depth is not None
        if not isinstance(span, slice):
            raise UserError("an index that is not flat needs a language's passages side by side; write index=flat")
        _, columns = self.top_k(queries, self.depth, (span.start, span.stop))
        ranks = np.where(_is_in(relevant, span), NOT_RETRIEVED, 0).astype(np.int32)
        for slot in range(relevant.shape[1]):
            row, place = np.nonzero((columns == relevant[:, slot, None]) & (relevant[:, slot, None] >= 0))
            ranks[row, slot] = place + 1
        return ranks

    def recall_of_index(self, queries: np.ndarray, span: tuple[int, int] | None = None, k: int = 10) -> float:
        """Share of the exact first k passages of a span that are among the first k which the shards' indexes find."""
        _, exact = self.exact_top_k(queries, k, span)
        _, found = self.top_k(queries, k, span)
        hits = [len(set(one) & set(other)) for one, other in zip(exact.tolist(), found.tolist(), strict=True)]
        return float(np.mean(hits) / exact.shape[1])


def _is_in(columns: np.ndarray, span: Span) -> np.ndarray:
    if isinstance(span, slice):
        return (columns >= span.start) & (columns < span.stop)
    return np.isin(columns, span)


def shard_bounds(size: int, shards: int) -> list[tuple[int, int]]:
    """Where neighbouring passages are cut: sizes differ by one at most.

    >>> shard_bounds(10, 3)
    [(0, 4), (4, 7), (7, 10)]
    """
    each, more = divmod(size, shards)
    starts = [number * each + min(number, more) for number in range(shards + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(starts) if stop > start]


def cut_at(first: int, last: int, edges: Iterable[int]) -> list[tuple[int, int]]:
    """The parts of a shard between edges, such as those between languages.

    >>> cut_at(4, 7, [0, 5, 10])
    [(4, 5), (5, 7)]
    """
    inner = sorted({edge for edge in edges if first < edge < last})
    return list(itertools.pairwise([first, *inner, last]))
