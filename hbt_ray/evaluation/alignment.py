"""Alignment of parallel texts in two languages: cosine, recall of the parallel text, uniformity.

Legend: N groups of parallel texts with one in each of two languages, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_UNIFORMITY_T = 2.0  # Wang and Isola 2020 take t = 2
_MAX_UNIFORMITY_TEXTS = 2048  # whose pairs are averaged


@dataclass(frozen=True, slots=True)
class PairAlignment:
    """Alignment of the texts of one language with the parallel texts of another."""

    parallel: float  # mean cosine of the N parallel pairs
    others: float  # mean cosine of the N * (N - 1) pairs that are not parallel
    recall: dict[int, float]  # k -> fraction whose parallel text is among the k nearest of the N


def align(one: np.ndarray, other: np.ndarray, ks: Sequence[int] = (1, 10)) -> PairAlignment:
    """Compute the alignment of N parallel texts; texts of the first language are the queries.

    Of texts with equal cosines the parallel one ranks last: a model that maps all texts to one point has recall 0.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> align(np.array([east, north]), np.array([east, east]))
    PairAlignment(parallel=0.5, others=0.5, recall={1: 0.0, 10: 1.0})

    Args:
        one: (N, D) unit vectors.
        other: (N, D) unit vectors; row n is parallel to row n of `one`.
        ks: depths of recall.
    """
    count = len(one)
    parallel = np.einsum("nd,nd->n", one, other)
    # The sum of all cosines is the dot product of the sums, so no N x N matrix is needed.
    sum_of_all = float(one.sum(axis=0, dtype=np.float64) @ other.sum(axis=0, dtype=np.float64))
    others = (sum_of_all - float(parallel.sum(dtype=np.float64))) / max(count * (count - 1), 1)
    ranks = np.empty(count, np.int64)
    block = max(1, min(count, 2**24 // max(count, 1)))
    for first in range(0, count, block):
        scores = one[first : first + block] @ other.T
        rows = np.arange(len(scores))
        ranks[first : first + block] = (scores >= scores[rows, first + rows][:, None]).sum(axis=1)
    return PairAlignment(float(parallel.mean()), others, {k: float((ranks <= k).mean()) for k in ks})


def uniformity(vectors: np.ndarray) -> float:
    """Return log of the mean of exp(-2 |x - y|^2) over pairs of different rows: 0 for one point, lower where spread.

    Wang and Isola 2020, arXiv 2005.10242, with t = 2. Of more than 2,048 rows, evenly spaced ones are taken.

    >>> round(uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])), 9)  # log exp(-2 * 4)
    -8.0
    """
    if len(vectors) > _MAX_UNIFORMITY_TEXTS:
        vectors = vectors[np.linspace(0, len(vectors) - 1, _MAX_UNIFORMITY_TEXTS).astype(int)]
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    kernel = np.exp(-_UNIFORMITY_T * (2 - 2 * cosines.astype(np.float64)))
    count = len(vectors)
    return float(np.log((kernel.sum() - np.trace(kernel)) / max(count * (count - 1), 1)))


def alignment_metrics(groups: Sequence[str], languages: Sequence[str], vectors: np.ndarray) -> dict[str, float]:
    """Compute the alignment of every ordered pair of languages that have parallel texts, and the means over pairs.

    Args:
        groups: of each text, equal for parallel texts; "" for a text that has none.
        languages: of each text.
        vectors: (texts, D); of a model that is not normalized they have any length.

    Returns:
        `cosine`, `cosine_of_others`, `recall@1`, `recall@10` and `uniformity`; the values of a pair have the suffix
        `/ar-en`; empty where no text has a parallel one.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.allclose(lengths, 1, atol=1e-3):
        vectors = vectors / np.maximum(lengths, 1e-12)
    row_of = rows_by_language(groups, languages)
    by_name: dict[str, list[float]] = {}
    detailed: dict[str, float] = {}
    for rows in parallel_rows(row_of):
        one, other = rows
        if len(rows[one]) < 2:
            continue
        for query_language, passage_language in ((one, other), (other, one)):
            found = align(vectors[rows[query_language]], vectors[rows[passage_language]])
            values = {"cosine": found.parallel, "cosine_of_others": found.others}
            values |= {f"recall@{k}": fraction for k, fraction in found.recall.items()}
            for name, value in values.items():
                by_name.setdefault(name, []).append(value)
                detailed[f"{name}/{query_language}-{passage_language}"] = value
    if not by_name:
        return {}
    parallel = sorted(row for rows_of_language in row_of.values() for row in rows_of_language.values())
    means = {name: float(np.mean(values)) for name, values in by_name.items()}
    return means | {"uniformity": uniformity(vectors[parallel])} | detailed


def rows_by_language(groups: Sequence[str], languages: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return language -> group -> the first row with both; rows whose group is "" are left out."""
    row_of: dict[str, dict[str, int]] = {}
    for row, (group, language) in enumerate(zip(groups, languages, strict=True)):
        if group:
            row_of.setdefault(language, {}).setdefault(group, row)
    return row_of


def parallel_rows(row_of: Mapping[str, Mapping[str, int]]) -> Iterator[dict[str, list[int]]]:
    """Yield, for each two languages with common groups, the rows of these groups in each language, in the same order.

    >>> list(parallel_rows({"de": {"a": 0, "b": 1}, "en": {"b": 2, "a": 3}, "tr": {"c": 4}}))
    [{'de': [0, 1], 'en': [3, 2]}]
    """
    for pair in combinations(sorted(row_of), 2):
        shared = sorted(row_of[pair[0]].keys() & row_of[pair[1]].keys())
        if shared:
            yield {language: [row_of[language][group] for group in shared] for language in pair}
