"""The first passages of a query: FAISS, and only here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import faiss
import numpy as np

from hbt_ray.retrieval.exact_scores import exact_scores, float32_error_bound

IndexType = Literal["flat", "hnsw", "ivfpq"]
_MORE = 8  # passages than asked for that are looked at, so that most ties at the edge are seen at once
_QUERIES_AT_ONCE = 512
_NEIGHBOURS = 32  # of a passage in an HNSW graph
_EF_CONSTRUCTION = 80
# 39 vectors for each of the 256 centroids of an IVF-PQ index's subquantizer, as FAISS asks for.
LEAST_APPROXIMATE = 9984


def top_k(query_vectors: np.ndarray, passage_vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k passages with the greatest exact score, best first; of equal scores the one further to the right.

    Args:
        query_vectors: (Q, D) float32.
        passage_vectors: (P, D) float32, sorted by passage id.
        k: passages per query; all of them if there are fewer.

    Returns:
        scores (Q, min(k, P)) float32 and columns (Q, min(k, P)) int64.
    """
    queries = np.ascontiguousarray(query_vectors, np.float32)
    passages = np.ascontiguousarray(passage_vectors, np.float32)
    k = min(k, len(passages))
    scores = np.empty((len(queries), k), np.float32)
    columns = np.empty((len(queries), k), np.int64)
    doubt = 2 * float32_error_bound(queries, passages)
    unfinished, depth = np.arange(len(queries)), k + _MORE
    while len(unfinished):
        depth = min(depth, len(passages))
        still = []
        for first in range(0, len(unfinished), _QUERIES_AT_ONCE):
            rows = unfinished[first : first + _QUERIES_AT_ONCE]
            near, found = faiss.knn(queries[rows], passages, depth, metric=faiss.METRIC_INNER_PRODUCT)
            own_scores, own = sort_by_exact_score(queries[rows], passages, found)
            # A passage that was not found is at most as near as the last one that was.
            complete = (near[:, -1] + doubt[rows] < own_scores[:, k - 1]) | (depth == len(passages))
            scores[rows[complete]], columns[rows[complete]] = own_scores[complete, :k], own[complete, :k]
            still.append(rows[~complete])
        unfinished, depth = np.concatenate(still), 2 * depth
    return scores, columns


def sort_by_exact_score(
    queries: np.ndarray, passages: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Found passages with their exact scores, best first.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32.
        columns: (Q, K) int64, -1 for none.

    Returns:
        scores (Q, K) float32, -inf for none, and columns (Q, K).
    """
    scores = np.full(columns.shape, -np.inf, np.float32)
    rows, places = np.nonzero(columns >= 0)
    scores[rows, places] = exact_scores(queries, passages, rows, columns[rows, places])
    order = np.lexsort((-columns, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(columns, order, axis=1)


def merge_top_k(parts: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of what several parts of a pool found, with the rule for ties.

    Args:
        parts: of each part scores (Q, its k) and columns (Q, its k), counted over the whole pool.

    Returns:
        scores (Q, K) and columns (Q, K), K the least of k and what the parts hold together.
    """
    scores = np.concatenate([found for found, _ in parts], axis=1)
    columns = np.concatenate([found for _, found in parts], axis=1)
    order = np.lexsort((-columns, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(columns, order, axis=1)


def flat_index(vectors: np.ndarray) -> Any:
    """FAISS's own exact index over (P, D) float32 vectors, to compare with: its `search(queries, k)` knows no ties."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


class ApproximateIndex:
    """Vectors that are searched faster than all of them can be scored, and some missed.

    "hnsw" (Malkov and Yashunin 2018) or "ivfpq" (Jégou et al. 2011).
    """

    def __init__(self, vectors: np.ndarray, kind: IndexType) -> None:
        """
        Args:
            vectors: (P, D) float32, at least LEAST_APPROXIMATE of them.
        """
        self.kind = kind
        self._index: Any = _hnsw(vectors.shape[1]) if kind == "hnsw" else _ivfpq(vectors)
        self._index.add(vectors)

    def search(self, query_vectors: np.ndarray, k: int) -> np.ndarray:
        """Columns of the k nearest vectors that it finds, (Q, k) int64, -1 where it finds fewer.

        Args:
            query_vectors: (Q, D) float32.
        """
        how = faiss.SearchParametersHNSW(efSearch=max(2 * k, 64)) if self.kind == "hnsw" else None  # type: ignore[attr-defined]
        _, columns = self._index.search(np.ascontiguousarray(query_vectors, np.float32), k, params=how)
        found: np.ndarray = columns
        return found


def _hnsw(width: int) -> Any:
    index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    return index


def _ivfpq(vectors: np.ndarray) -> Any:
    """A trained index: 4 * sqrt(P) lists of which a sixteenth is searched, codes of a byte for every 4 values or so."""
    count, width = vectors.shape
    lists = min(int(4 * count**0.5), count // 39)
    codes = next(codes for codes in range(max(width // 4, 1), 0, -1) if width % codes == 0)
    quantizer = faiss.IndexFlatIP(width)  # kept by FAISS's Python layer as long as the index
    index = faiss.IndexIVFPQ(quantizer, width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.nprobe = max(lists // 16, 8)
    return index
