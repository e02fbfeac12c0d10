"""The search index: FAISS, and only here."""

from __future__ import annotations

import faiss
import numpy as np

from hbt_ray.metrics import check_vectors, distinct_rows


def top_k(query_vectors: np.ndarray, passage_vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k passages with the greatest inner product, best first.

    Exact (a flat index), with `metrics.ranks_of_relevant`'s rule for ties: of equal scores the passage further to
    the right stands first. Equal vectors are scored once, and so always tie. Unequal vectors whose scores differ by
    less than float32 resolves may stand in another order there, for the two sum in different orders.

    Args:
        query_vectors: (Q, D) float32.
        passage_vectors: (P, D) float32, sorted by passage id.
        k: passages per query; all of them if there are fewer.

    Returns:
        scores (Q, min(k, P)) float32 and columns (Q, min(k, P)) int64.

    Raises:
        UserError: a vector holds NaN or infinity, or widths differ.
    """
    check_vectors(query_vectors, passage_vectors)
    k = min(k, len(passage_vectors))
    distinct, number_of = distinct_rows(passage_vectors)  # (U, D), (P,)
    copies = np.split(np.argsort(number_of, kind="stable"), np.cumsum(np.bincount(number_of))[:-1])
    index = faiss.IndexFlatIP(passage_vectors.shape[1])
    index.add(np.ascontiguousarray(distinct, np.float32))
    scores = np.empty((len(query_vectors), k), np.float32)
    columns = np.empty((len(query_vectors), k), np.int64)
    unfinished = np.arange(len(query_vectors))
    depth = k + 1  # one more than asked for shows whether a tie reaches over the edge
    while len(unfinished):
        depth = min(depth, len(distinct))
        found_scores, found = index.search(np.ascontiguousarray(query_vectors[unfinished], np.float32), depth)
        last = min(k, depth) - 1
        complete = np.full(len(found), depth == len(distinct)) | (found_scores[:, -1] < found_scores[:, last])
        for row in np.flatnonzero(complete):
            scores[unfinished[row]], columns[unfinished[row]] = _ordered(found_scores[row], found[row], copies, k)
        unfinished = unfinished[~complete]
        depth *= 2
    return scores, columns


def _ordered(scores: np.ndarray, found: np.ndarray, copies: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k passages among those whose vectors were found: scores (k,), columns (k,)."""
    columns = np.concatenate([copies[number] for number in found])
    expanded = np.repeat(scores, [len(copies[number]) for number in found])
    order = np.lexsort((-columns, -expanded))[:k]
    return expanded[order], columns[order]
