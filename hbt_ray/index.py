"""The search index: FAISS, and only here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import faiss
import numpy as np

from hbt_ray.errors import UserError
from hbt_ray.metrics import check_vectors, distinct_rows

Kind = Literal["flat", "hnsw", "ivfpq"]
_NEIGHBOURS = 32  # of a passage in an HNSW graph
_EF_CONSTRUCTION = 80
_LEAST_IVFPQ = 9984  # 39 passages for each of the 256 centroids of a subquantizer, as FAISS asks for


class SearchIndex:
    """Passages that are searched by inner product.

    "flat" is exact, with `metrics.ranks_of_relevant`'s rule for ties: of equal scores the passage further to the right
    stands first. Equal vectors are scored once, and so always tie. Unequal vectors whose scores differ by less than
    float32 resolves may stand in another order there, for the two sum in different orders.

    "hnsw" (Malkov and Yashunin 2018) and "ivfpq" (Jégou et al. 2011) are approximate: faster, and smaller in the second
    case, but they miss some passages.
    """

    def __init__(self, passage_vectors: np.ndarray, kind: Kind = "flat") -> None:
        """
        Args:
            passage_vectors: (P, D) float32, sorted by passage id.

        Raises:
            UserError: a vector holds NaN or infinity, or there are too few for an "ivfpq" index.
        """
        check_vectors(passage_vectors[:0], passage_vectors)
        self.kind = kind
        self._index: Any
        self._size = len(passage_vectors)
        if kind == "flat":
            distinct, number_of = distinct_rows(passage_vectors)  # (U, D), (P,)
            # Columns with those of equal vectors side by side, (P,), and where those of each vector begin, (U + 1,).
            self._columns = np.argsort(number_of, kind="stable")
            self._begins = np.concatenate([[0], np.cumsum(np.bincount(number_of))])
            self._index = faiss.IndexFlatIP(passage_vectors.shape[1])
            self._index.add(np.ascontiguousarray(distinct, np.float32))
        else:
            vectors = np.ascontiguousarray(passage_vectors, np.float32)
            self._index = _hnsw(vectors.shape[1]) if kind == "hnsw" else _ivfpq(vectors)
            self._index.add(vectors)

    def search(
        self, query_vectors: np.ndarray, k: int, span: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k passages with the greatest inner product, best first.

        Args:
            query_vectors: (Q, D) float32.
            k: passages per query; all of them if there are fewer.
            span: search those from the first column up to the second alone; in an approximate index.

        Returns:
            scores (Q, min(k, P)) float32 and columns (Q, min(k, P)) int64; -inf and -1 where an approximate index
            found fewer.

        Raises:
            UserError: a vector holds NaN or infinity, or widths differ.
        """
        check_vectors(query_vectors, np.empty((0, self._index.d), np.float32))
        k = min(k, self._size)
        queries = np.ascontiguousarray(query_vectors, np.float32)
        if self.kind == "flat":
            return self._search_exactly(queries, k)
        selected = {} if span is None else {"sel": faiss.IDSelectorRange(*span)}
        if self.kind == "hnsw":
            how = faiss.SearchParametersHNSW(efSearch=max(2 * k, 64), **selected)  # type: ignore[attr-defined]
        else:
            how = faiss.SearchParametersIVF(nprobe=self._index.nprobe, **selected)  # type: ignore[call-arg]
        scores, columns = self._index.search(queries, k, params=how)
        scores[columns < 0] = -np.inf
        return scores, columns

    def _search_exactly(self, query_vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        distinct = self._index.ntotal
        scores = np.empty((len(query_vectors), k), np.float32)
        columns = np.empty((len(query_vectors), k), np.int64)
        unfinished = np.arange(len(query_vectors))
        depth = k + 1  # one more than asked for shows whether a tie reaches over the edge
        while len(unfinished):
            depth = min(depth, distinct)
            found_scores, found = self._index.search(query_vectors[unfinished], depth)
            last = min(k, depth) - 1
            complete = np.full(len(found), depth == distinct) | (found_scores[:, -1] < found_scores[:, last])
            for row in np.flatnonzero(complete):
                ordered = self._ordered(found_scores[row], found[row], k)
                scores[unfinished[row]], columns[unfinished[row]] = ordered
            unfinished = unfinished[~complete]
            depth *= 2
        return scores, columns

    def _ordered(self, scores: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The first k passages among those whose vectors were found: scores (k,), columns (k,)."""
        copies = self._begins[found + 1] - self._begins[found]
        if (copies == 1).all():
            columns = self._columns[self._begins[found]]
        else:
            columns = np.concatenate([self._columns[self._begins[n] : self._begins[n + 1]] for n in found])
            scores = np.repeat(scores, copies)
        order = np.lexsort((-columns, -scores))[:k]
        return scores[order], columns[order]


def top_k(query_vectors: np.ndarray, passage_vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`SearchIndex.search` in a flat index that is made for it."""
    return SearchIndex(passage_vectors).search(query_vectors, k)


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


def _hnsw(width: int) -> Any:
    index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    return index


def _ivfpq(vectors: np.ndarray) -> Any:
    """A trained index: 4 * sqrt(P) lists of which a sixteenth is searched, codes of a byte for every 4 values or so."""
    count, width = vectors.shape
    if count < _LEAST_IVFPQ:
        raise UserError(f"an ivfpq index needs {_LEAST_IVFPQ:,} passages and has {count:,}; write index=flat")
    lists = min(int(4 * count**0.5), count // 39)
    codes = next(codes for codes in range(max(width // 4, 1), 0, -1) if width % codes == 0)
    quantizer = faiss.IndexFlatIP(width)  # kept by FAISS's Python layer as long as the index
    index = faiss.IndexIVFPQ(quantizer, width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.nprobe = max(lists // 16, 8)
    return index
