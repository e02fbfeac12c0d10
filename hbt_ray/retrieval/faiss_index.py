"""The first passages of a query, exact or approximate; the only module that imports FAISS.

Legend: Q queries, P passages, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import faiss
import numpy as np

from hbt_ray.retrieval.exact_scores import (
    PASSAGES_PER_BLOCK,
    exact_scores,
    exact_scores_of_all,
    float32_error_bound,
    rank_keys,
    scores_of_keys,
)

IndexType = Literal["flat", "hnsw", "ivfpq"]
TopK = tuple[np.ndarray, np.ndarray]  # scores (Q, k) float32 and passage indices (Q, k) int64, best first
_EXTRA_CANDIDATES = 8  # beyond k, so that most ties at position k are found by the first search
_QUERIES_PER_BLOCK = 512
_HNSW_NEIGHBOURS = 32  # of a passage in the graph
_HNSW_EF_CONSTRUCTION = 80
# 39 vectors for each of the 256 centroids of an IVF-PQ index's subquantizer, as FAISS requires.
MIN_APPROXIMATE_VECTORS = 9984


def top_k(query_vectors: np.ndarray, passage_vectors: np.ndarray, k: int) -> TopK:
    """Return the k passages with the greatest exact scores, best first; of equal scores the greater index first.

    1. Search for k + 8 candidates in float32, and score them exactly.
    2. A query is finished when the last candidate, plus twice the error bound, is below its k-th exact score.
    3. Score all passages exactly for the others.

    Args:
        query_vectors: (Q, D) float32.
        passage_vectors: (P, D) float32, sorted by passage id.
        k: passages per query; all of them if there are fewer.

    Returns:
        scores (Q, min(k, P)) float32 and passage indices (Q, min(k, P)) int64.
    """
    queries = np.ascontiguousarray(query_vectors, np.float32)
    passages = np.ascontiguousarray(passage_vectors, np.float32)
    k = min(k, len(passages))
    scores = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)
    margin = 2 * float32_error_bound(queries, passages)
    depth = min(k + _EXTRA_CANDIDATES, len(passages))
    # 1. Candidates.
    is_complete = np.empty(len(queries), bool)
    for first in range(0, len(queries), _QUERIES_PER_BLOCK):
        rows = slice(first, first + _QUERIES_PER_BLOCK)
        approximate, found = faiss.knn(queries[rows], passages, depth, metric=faiss.METRIC_INNER_PRODUCT)
        sorted_scores, sorted_indices = sort_by_exact_score(queries[rows], passages, found)
        scores[rows], indices[rows] = sorted_scores[:, :k], sorted_indices[:, :k]
        # 2. A passage that was not found scores at most as high as the last candidate.
        is_complete[rows] = (approximate[:, -1] + margin[rows] < sorted_scores[:, k - 1]) | (depth == len(passages))
    # 3. All passages.
    unfinished = np.flatnonzero(~is_complete)
    for first in range(0, len(unfinished), _QUERIES_PER_BLOCK):
        of_block = unfinished[first : first + _QUERIES_PER_BLOCK]
        scores[of_block], indices[of_block] = _top_k_of_all(queries[of_block], passages, k)
    return scores, indices


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
    order = np.lexsort((-indices, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


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


def flat_index(vectors: np.ndarray) -> Any:
    """Return FAISS's exact index over (P, D) float32 vectors, as a baseline; its `search(queries, k)` ignores ties."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


class ApproximateIndex:
    """An index that is searched faster than all vectors can be scored, and that may miss some.

    "hnsw" (Malkov and Yashunin 2018) or "ivfpq" (Jégou et al. 2011).
    """

    def __init__(self, vectors: np.ndarray, index_type: IndexType) -> None:
        """Build the index.

        Args:
            vectors: (P, D) float32, at least MIN_APPROXIMATE_VECTORS of them.
            index_type: "hnsw" or "ivfpq".
        """
        self.index_type = index_type
        self._index: Any = _hnsw(vectors.shape[1]) if index_type == "hnsw" else _ivfpq(vectors)
        self._index.add(vectors)

    def search(self, query_vectors: np.ndarray, k: int) -> np.ndarray:
        """Return the indices of the k nearest vectors that it finds, (Q, k) int64, -1 where it finds fewer.

        Args:
            query_vectors: (Q, D) float32.
            k: vectors per query.
        """
        parameters = faiss.SearchParametersHNSW(efSearch=max(2 * k, 64)) if self.index_type == "hnsw" else None  # type: ignore[attr-defined]
        _, indices = self._index.search(np.ascontiguousarray(query_vectors, np.float32), k, params=parameters)
        found: np.ndarray = indices
        return found


def _hnsw(width: int) -> Any:
    index = faiss.IndexHNSWFlat(width, _HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _HNSW_EF_CONSTRUCTION
    return index


def _ivfpq(vectors: np.ndarray) -> Any:
    """Train an index of 4 * sqrt(P) lists, a sixteenth of them searched, with a byte for about every 4 values."""
    count, width = vectors.shape
    lists = min(int(4 * count**0.5), count // 39)
    codes = next(codes for codes in range(max(width // 4, 1), 0, -1) if width % codes == 0)
    quantizer = faiss.IndexFlatIP(width)  # referenced by the index, which keeps it alive
    index = faiss.IndexIVFPQ(quantizer, width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.nprobe = max(lists // 16, 8)
    return index
