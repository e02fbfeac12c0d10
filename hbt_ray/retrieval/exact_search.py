"""The first k passages of each query by exact score, at a speed near that of a float32 matrix product.

Legend: Q queries, P passages, D width; within a block, B queries, N passages, C candidates of a query.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from hbt_ray.retrieval.exact_scores import (
    PASSAGES_PER_BLOCK,
    SCORE_ALL_DIVISOR,
    exact_scores,
    exact_scores_of_all,
    float32_error_bound,
    longest_vector,
    rank_keys,
    round_down,
    scores_of_keys,
)

TopK = tuple[np.ndarray, np.ndarray]  # scores (Q, k) float32 and passage indices (Q, k) int64, best first
_QUERIES_PER_BLOCK = 256
_SCORES_PER_TILE = 2**18  # 1 MiB: they are compared while they are in a cache of the processor
_MAX_CANDIDATES_IN_MEMORY = 2**22  # of a block of queries
_SPARE = 64  # candidates of a query, in addition to multiples of k
_NO_KEY = -(2**63) + 1  # below every key; its negative is an int64 too
_BLAS = ThreadpoolController().select(user_api="blas")
_BLAS_LOCK = threading.Lock()  # the number of BLAS threads is one for the process


def top_k(query_vectors: np.ndarray, passage_vectors: np.ndarray, k: int, longest: float | None = None) -> TopK:
    """Return the k passages with the greatest exact scores, best first; of equal scores the greater index first.

    Blocks of queries are searched by as many threads as BLAS has. Each multiplies by itself, so none waits for another.

    Args:
        query_vectors: (Q, D) float32.
        passage_vectors: (P, D) float32, sorted by passage id.
        k: passages per query; all of them if there are fewer.
        longest: `longest_vector` of the passages, where it is known.

    Returns:
        scores (Q, min(k, P)) float32 and passage indices (Q, min(k, P)) int64.
    """
    queries = np.ascontiguousarray(query_vectors, np.float32)
    passages = np.ascontiguousarray(passage_vectors, np.float32)
    k = min(k, len(passages))
    scores, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if not scores.size:
        return scores, indices
    bound = float32_error_bound(queries, longest_vector(passages) if longest is None else longest)

    def search(rows: slice) -> None:
        scores[rows], indices[rows] = _top_k_of_block(queries[rows], passages, k, bound[rows])

    with single_threaded_products() as threads, ThreadPoolExecutor(threads) as executor:
        block = min(_QUERIES_PER_BLOCK, -(-len(queries) // threads), _MAX_CANDIDATES_IN_MEMORY // (3 * k) + 1)
        list(executor.map(search, [slice(first, first + block) for first in range(0, len(queries), block)]))
    return scores, indices


@contextlib.contextmanager
def single_threaded_products() -> Iterator[int]:
    """Multiply in one thread within the block; yield the number of threads that BLAS has otherwise."""
    with _BLAS_LOCK:
        threads = max((library["num_threads"] for library in _BLAS.info()), default=1)
        with _BLAS.limit(limits=1):
            yield threads


def _top_k_of_block(queries: np.ndarray, passages: np.ndarray, k: int, bound: np.ndarray) -> TopK:
    """Return what `top_k` returns.

    1. Multiply the queries with a tile of passages in float32. A product that is lower than the k-th greatest so far by
       more than twice the error bound is not that of one of the first k. The others are candidates.
    2. Where a query has many candidates, raise its threshold, and drop those below it. Where many are within the bound,
       score them exactly, and keep the first k.
    3. Score the last candidates exactly.
    4. Score all passages exactly for a query of which too many were scored, such as those of a collapsed model.

    Args:
        queries: (B, D) float32.
        passages: (P, D) float32.
        k: at most P.
        bound: (B,) of the products' errors; infinite for a query whose products may overflow.
    """
    width = max(min(_SCORES_PER_TILE // len(queries), len(passages)), 1)
    candidates = _Candidates(queries, passages, k, bound, width)
    memory = np.empty(len(queries) * width, np.float32), np.empty(len(queries) * width, bool)
    # 1. and 2. Candidates.
    for first in range(0, len(passages), width):
        tile = passages[first : first + width]
        products, is_candidate = (array[: len(queries) * len(tile)].reshape(len(queries), -1) for array in memory)
        np.matmul(queries, tile.T, out=products)
        np.greater_equal(products, candidates.thresholds[:, None], out=is_candidate)
        rows, columns = divmod(np.flatnonzero(is_candidate), len(tile))
        candidates.add(rows, rank_keys(products[rows, columns], first + columns))
    # 3. Exact scores.
    candidates.raise_thresholds()
    scores, indices = (found[:, :k] for found in candidates.sorted_exactly(np.arange(len(queries))))
    # 4. All passages.
    unfinished = np.flatnonzero(candidates.is_given_up)
    if len(unfinished):
        scores[unfinished], indices[unfinished] = _top_k_of_all(queries[unfinished], passages, k)
    return scores, indices


class _Candidates:
    """The passages of each query that may be among its first k, as `rank_keys` of their products or scores."""

    def __init__(self, queries: np.ndarray, passages: np.ndarray, k: int, bound: np.ndarray, width: int) -> None:
        """Begin without candidates; see `_top_k_of_block`. At most `width` candidates are added to a query at once."""
        self._queries, self._passages, self._k, self._bound = queries, passages, k, bound
        self._limit = 3 * k + _SPARE
        self._keys = np.full((len(bound), self._limit + width), _NO_KEY)
        self._counts, self._scored = np.zeros(len(bound), np.int64), np.zeros(len(bound), np.int64)
        self.thresholds = np.full(len(bound), -np.inf, np.float32)
        self.is_given_up = np.zeros(len(bound), bool)
        self._give_up(np.isinf(bound))

    def add(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Add candidates: the rows of their queries, (N,) ascending, and keys (N,)."""
        added = np.bincount(rows, minlength=len(self._counts))
        before = np.cumsum(added) - added
        self._keys[rows, (self._counts - before)[rows] + np.arange(len(rows))] = keys
        self._counts += added
        if self._counts.max() > self._limit:
            self.raise_thresholds()

    def raise_thresholds(self) -> None:
        """Raise thresholds to the k-th greatest product less twice the bound, and drop the candidates below."""
        used = max(self._counts.max(), self._k)
        keys = -np.sort(-self._keys[:, :used], axis=1)
        products, _ = scores_of_keys(keys[:, self._k - 1])
        self.thresholds = np.where(self._counts < self._k, self.thresholds, round_down(products - 2 * self._bound))
        keys[keys < rank_keys(self.thresholds, np.zeros(1, np.int64))[:, None]] = _NO_KEY
        self._keys[:, :used] = keys
        self._counts = np.count_nonzero(keys != _NO_KEY, axis=1)
        is_crowded = self._counts > 2 * self._k + _SPARE
        self._scored += np.where(is_crowded, self._counts, 0)
        self._give_up(self._scored > len(self._passages) / SCORE_ALL_DIVISOR)
        rows = np.flatnonzero(is_crowded & ~self.is_given_up)
        if len(rows):
            scores, indices = self.sorted_exactly(rows)
            self._keys[rows] = _NO_KEY
            self._keys[rows, : self._k] = rank_keys(scores, indices)[:, : self._k]
            self._counts[rows] = self._k

    def sorted_exactly(self, rows: np.ndarray) -> TopK:
        """Return what `sort_by_exact_score` returns for the candidates of some queries; at least k for each."""
        keys = self._keys[rows, : max(self._k, self._counts.max())]
        _, indices = scores_of_keys(keys)
        return sort_by_exact_score(self._queries[rows], self._passages, np.where(keys == _NO_KEY, -1, indices))

    def _give_up(self, rows: np.ndarray) -> None:
        """Drop the candidates of some queries, (B,) bool, and accept no more."""
        self.is_given_up |= rows
        self.thresholds[rows], self._counts[rows], self._keys[rows] = np.nan, 0, _NO_KEY


def _top_k_of_all(queries: np.ndarray, passages: np.ndarray, k: int) -> TopK:
    """Return what `top_k` returns, from the exact scores of all passages."""
    best = np.empty((len(queries), 0), np.int64)
    for first in range(0, len(passages), PASSAGES_PER_BLOCK):
        scores = exact_scores_of_all(queries, passages[first : first + PASSAGES_PER_BLOCK])
        keys = np.concatenate([best, rank_keys(scores, np.arange(first, first + scores.shape[1]))], axis=1)
        best = np.partition(keys, -k, axis=1)[:, -k:] if keys.shape[1] > k else keys
    return scores_of_keys(-np.sort(-best, axis=1))


def sort_by_exact_score(queries: np.ndarray, passages: np.ndarray, indices: np.ndarray) -> TopK:
    """Score the found passages exactly, and sort them best first.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32.
        indices: (Q, K) int64 of the found passages, -1 for none.

    Returns:
        scores (Q, K) float32, -inf for none, and passage indices (Q, K).
    """
    scores = np.full(indices.shape, -np.inf, np.float32)
    rows, positions = np.nonzero(indices >= 0)
    scores[rows, positions] = exact_scores(queries, passages, rows, indices[rows, positions])
    return merge_top_k([(scores, indices)], indices.shape[1])


def merge_top_k(parts: Sequence[TopK], k: int) -> TopK:
    """Merge the results of several shards into the first k of all; ties as in `top_k`.

    Args:
        parts: of each shard scores (Q, its k) and passage indices (Q, its k) over the whole index.
        k: passages per query.

    Returns:
        scores (Q, K) and passage indices (Q, K), K the minimum of k and the number of results of all shards.
    """
    scores = np.concatenate([found for found, _ in parts], axis=1)
    indices = np.concatenate([found for _, found in parts], axis=1)
    order = np.lexsort((-indices, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)
