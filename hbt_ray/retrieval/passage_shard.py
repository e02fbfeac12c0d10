"""One shard of a passage index: exact or approximate search among neighbouring passages.

Legend: Q queries, P passages of the shard, W their windows, D width, R relevant passages of the query that has most.
Passage indices count passages over the whole index, not within the shard. A span is some of the passages, such as those
of one language: a slice, or an ascending array of passage indices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hbt_ray.retrieval.exact_scores import (
    check_vectors,
    count_higher_scoring,
    exact_scores,
    exact_scores_of_all,
    float32_error_bound,
    longest_vector,
)
from hbt_ray.retrieval.exact_search import TopK, sort_by_exact_score, top_k
from hbt_ray.retrieval.faiss_index import MIN_APPROXIMATE_VECTORS, ApproximateIndex, IndexType
from hbt_ray.utils.progress import stage

Span = slice | np.ndarray
MAX_SCORES_IN_MEMORY = 2**24  # of a shard
_MAX_QUERIES_PER_BLOCK = 512
_QUERIES_PER_THREAD = 64  # whose scores are compared in one call: few enough to stay in a cache of the processor

# (indices of the queries, windows to find for each) -> scores and window indices
_WindowSearch = Callable[[np.ndarray, int], TopK]


class PassageIndexShard:
    """Neighbouring passages of an index. The score of a passage in windows is that of its best window (MaxP)."""

    def __init__(
        self,
        vectors: np.ndarray,
        first: int = 0,
        index_type: IndexType = "flat",
        window_starts: np.ndarray | None = None,
    ):
        """Build the shard's search structure.

        Args:
            vectors: (W, D) float32, of the windows of all passages in order.
            first: the passage index of the first passage.
            index_type: "flat" is exact. A shard with fewer than MIN_APPROXIMATE_VECTORS vectors is always searched
                exactly, which is as fast.
            window_starts: (P,) the index of each passage's first window; None: each passage has one window.

        Raises:
            UserError: a vector holds NaN or infinity.
        """
        check_vectors(vectors[:0], vectors)
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._longest = longest_vector(self._vectors)
        self._first = first
        # (P + 1,), the windows of passage p are [p] to [p + 1]; None: window p is passage p.
        self._window_offsets = None if window_starts is None else np.append(window_starts, len(vectors))
        is_exact = index_type == "flat" or len(vectors) < MIN_APPROXIMATE_VECTORS
        self._index = None if is_exact else ApproximateIndex(self._vectors, index_type)

    def size(self) -> int:
        """Return the number of passages."""
        return len(self._vectors) if self._window_offsets is None else len(self._window_offsets) - 1

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> TopK:
        """Return the first k passages of this shard, best first; none where the shard is outside the span.

        An approximate index may find fewer: missing entries have score -inf and passage index -1.

        Args:
            queries: (Q, D) float32.
            k: passages per query.
            span: (start, stop) of passage indices; None: all.

        Returns:
            scores (Q, min(k, P)) float32 and passage indices (Q, min(k, P)) int64.

        Raises:
            UserError: a vector holds NaN or infinity, or widths differ.
            ValueError: the span begins or ends within the shard.
        """
        check_vectors(queries, self._vectors[:0])
        index = self._index
        if index is None:
            return self.exact_top_k(queries, k, span)
        return self._best_passages(
            lambda rows, depth: sort_by_exact_score(queries[rows], self._vectors, index.search(queries[rows], depth)),
            len(queries),
            k if self._is_within(span) else 0,
        )

    def exact_top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None = None) -> TopK:
        """Return what `top_k` returns for a flat index, whatever index the shard has."""
        return self._best_passages(
            lambda rows, depth: top_k(queries[rows], self._vectors, depth, self._longest),
            len(queries),
            k if self._is_within(span) else 0,
        )

    def _is_within(self, span: tuple[int, int] | None) -> bool:
        if span is None or (span[0] <= self._first and self._end <= span[1]):
            return True
        if self._end <= span[0] or span[1] <= self._first:
            return False
        raise ValueError(f"the span {span} cuts a shard from {self._first} to {self._end}; cut shards at spans")

    def _best_passages(self, search: _WindowSearch, num_queries: int, k: int) -> TopK:
        """Return the first k passages, from a search among windows.

        1. Search for 2 k windows of each query.
        2. Keep the best window of each passage. Queries with k passages, or with all windows seen, are finished.
        3. Search twice as deep for the others.
        """
        k = min(k, self.size())
        if not k:
            return np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64)
        if self._window_offsets is None:
            scores, indices = search(np.arange(num_queries), k)
            return scores, np.where(indices < 0, indices, indices + self._first)
        passage_of_window = np.repeat(np.arange(self.size()), np.diff(self._window_offsets))
        scores = np.full((num_queries, k), -np.inf, np.float32)
        indices = np.full((num_queries, k), -1, np.int64)
        unfinished, depth = np.arange(num_queries), 2 * k
        while len(unfinished):
            depth = min(depth, len(self._vectors))
            still_unfinished = []
            for row, window_scores, windows in zip(unfinished, *search(unfinished, depth), strict=True):
                found = windows >= 0
                passages = passage_of_window[windows[found]]
                best = np.sort(np.unique(passages, return_index=True)[1])  # the best window of each passage
                if len(best) < k and depth < len(self._vectors):
                    still_unfinished.append(row)
                    continue
                best = best[:k]
                scores[row, : len(best)] = window_scores[found][best]
                indices[row, : len(best)] = passages[best] + self._first
            unfinished, depth = np.array(still_unfinished, np.int64), 2 * depth
        return scores, indices

    def scores_of(self, queries: np.ndarray, passage_indices: np.ndarray) -> np.ndarray:
        """Return the exact scores of some passages of each query: (Q, D), (Q, R) -> (Q, R) float32.

        Passages of other shards have NaN.
        """
        check_vectors(queries, self._vectors[:0])
        scores = np.full(passage_indices.shape, np.nan, np.float32)
        rows, slots = np.nonzero((passage_indices >= self._first) & (passage_indices < self._end))
        scores[rows, slots] = self._exact_scores(queries, rows, passage_indices[rows, slots] - self._first)
        return scores

    def counts_above(
        self, queries: np.ndarray, scores: np.ndarray, passage_indices: np.ndarray, spans: Sequence[Span]
    ) -> np.ndarray:
        """Count the passages of this shard that rank above given passages, within the spans that contain these.

        1. Multiply a block of queries with all vectors in float32.
        2. In each span, compare the products with the given passages' exact scores, in threads; products within the
           error bound of one are scored exactly (`count_higher_scoring`).

        Args:
            queries: (Q, D) float32.
            scores: (Q, R) exact scores of the given passages; NaN for none.
            passage_indices: (Q, R) of the given passages, which may be in other shards.
            spans: in which to count.

        Returns:
            (spans, Q, R) int64.
        """
        counts = np.zeros((len(spans), *passage_indices.shape), np.int64)
        local_spans = [self._locate(span, passage_indices) for span in spans]
        error_bound = float32_error_bound(queries, self._longest)
        block = max(1, min(_MAX_QUERIES_PER_BLOCK, MAX_SCORES_IN_MEMORY // max(len(self._vectors), 1)))
        # Allocated once for all blocks: allocating for each would take longer than the products do.
        products = np.empty((block, len(self._vectors)), np.float32)
        approximate = products if self._window_offsets is None else np.empty((block, self.size()), np.float32)

        def count(first: int, begin: int, end: int) -> None:
            rows = slice(first + begin, first + end)
            for number, local in enumerate(local_spans):
                thresholds = np.where(local.is_in_span[rows], scores[rows], np.nan)
                if np.isnan(thresholds).all():
                    continue

                def score_exactly(in_block: np.ndarray, positions: np.ndarray, local: _LocalSpan = local) -> np.ndarray:
                    return self._exact_scores(queries, rows.start + in_block, local.passages[positions])

                def score_all(in_block: np.ndarray, local: _LocalSpan = local) -> np.ndarray:
                    return self._exact_scores_of_all(queries[rows.start + in_block], local.passages)

                counts[number, rows] = count_higher_scoring(
                    approximate[begin:end, local.selection],
                    thresholds,
                    local.positions[rows],
                    local.is_here[rows],
                    error_bound[rows],
                    score_exactly,
                    score_all,
                )

        with ThreadPoolExecutor(os.cpu_count()) as threads, stage("ranking", len(queries), "queries") as progress:
            for first in range(0, len(queries), block):
                size = len(queries[first : first + block])
                # 1. One matrix product for all spans.
                np.matmul(queries[first : first + block], self._vectors.T, out=products[:size])
                if self._window_offsets is not None:
                    np.maximum.reduceat(products[:size], self._window_offsets[:-1], axis=1, out=approximate[:size])
                # 2. Counting, by threads.
                begins = range(0, size, _QUERIES_PER_THREAD)
                ends = [min(begin + _QUERIES_PER_THREAD, size) for begin in begins]
                list(threads.map(count, [first] * len(begins), begins, ends))
                progress.advance(size)
        return counts

    def _locate(self, span: Span, passage_indices: np.ndarray) -> _LocalSpan:
        is_in_span = is_within(passage_indices, span)
        if isinstance(span, slice):
            begin, end = np.clip((span.start, span.stop), self._first, self._end).tolist()
            return _LocalSpan(
                selection=slice(begin - self._first, end - self._first),
                passages=np.arange(begin - self._first, end - self._first),
                positions=passage_indices - begin,
                is_here=(passage_indices >= begin) & (passage_indices < end),
                is_in_span=is_in_span,
            )
        in_shard = span[(span >= self._first) & (span < self._end)]
        insertions = np.searchsorted(in_shard, passage_indices)
        is_here = np.isin(passage_indices, in_shard)
        return _LocalSpan(
            selection=in_shard - self._first,
            passages=in_shard - self._first,
            positions=np.where(is_here, insertions, insertions - 1),
            is_here=is_here,
            is_in_span=is_in_span,
        )

    @property
    def _end(self) -> int:
        return self._first + self.size()

    def _exact_scores(self, queries: np.ndarray, rows: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """Run `exact_scores` on passages of this shard, counted from 0; a passage in windows has its best score."""
        if self._window_offsets is None:
            return exact_scores(queries, self._vectors, rows, passages)
        windows, first, sizes = self._windows_of(passages, self._window_offsets)
        scores = exact_scores(queries, self._vectors, np.repeat(rows, sizes), windows)
        best: np.ndarray = np.maximum.reduceat(scores, first) if len(first) else scores
        return best

    def _exact_scores_of_all(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """Return the exact scores of queries (B, D) with passages of this shard, counted from 0: (B, N)."""
        if self._window_offsets is None:
            return exact_scores_of_all(queries, self._vectors[passages])
        windows, first, _ = self._windows_of(passages, self._window_offsets)
        best: np.ndarray = np.maximum.reduceat(exact_scores_of_all(queries, self._vectors[windows]), first, axis=1)
        return best

    @staticmethod
    def _windows_of(passages: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the windows of N passages, one passage after another; where each passage begins (N,); sizes (N,)."""
        begins, sizes = offsets[passages], np.diff(offsets)[passages]
        first = np.cumsum(sizes) - sizes
        return np.arange(sizes.sum()) + np.repeat(begins - first, sizes), first, sizes

    def vectors_of(self, passage_indices: np.ndarray) -> np.ndarray:
        """Return the vectors of some passages: (N,) -> (N, D) float32.

        Passages of other shards have zeros; a passage in windows has the vector of its first window.
        """
        is_here = (passage_indices >= self._first) & (passage_indices < self._end)
        local = passage_indices[is_here] - self._first
        vectors = np.zeros((len(passage_indices), self._vectors.shape[1]), np.float32)
        vectors[is_here] = self._vectors[local if self._window_offsets is None else self._window_offsets[local]]
        return vectors


@dataclass(frozen=True, slots=True)
class _LocalSpan:
    """A span and some passages, as one shard sees them; N passages of the shard are in the span."""

    selection: Span  # selects the N from arrays over the shard's passages
    passages: np.ndarray  # (N,) the same passages, counted from 0 in the shard
    positions: np.ndarray  # (Q, R) of the given passages among the N; those at larger positions have greater ids
    is_here: np.ndarray  # (Q, R) bool, whether the given passages are among the N
    is_in_span: np.ndarray  # (Q, R) bool, whether they are in the span, in whichever shard


def is_within(passage_indices: np.ndarray, span: Span) -> np.ndarray:
    """Return which passages are in a span, elementwise; the span is an array, or a slice with start and stop."""
    if isinstance(span, slice):
        return (passage_indices >= span.start) & (passage_indices < span.stop)
    return np.isin(passage_indices, span)
