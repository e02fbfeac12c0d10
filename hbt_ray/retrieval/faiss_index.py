"""Approximate indexes of passage vectors; the only module that imports FAISS.

Legend: Q queries, P passages, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np

IndexType = Literal["flat", "hnsw", "ivfpq"]
_HNSW_NEIGHBOURS = 32  # of a passage in the graph
_HNSW_EF_CONSTRUCTION = 80
# 39 vectors for each of the 256 centroids of an IVF-PQ index's subquantizer, as FAISS requires.
MIN_APPROXIMATE_VECTORS = 9984


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
