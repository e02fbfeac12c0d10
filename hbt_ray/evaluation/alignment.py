"""How near texts that say the same in two languages lie: cosine, recall of the parallel text, uniformity.

Legend: N groups of parallel texts with one in each of two languages, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_UNIFORMITY_T = 2.0  # Wang and Isola 2020 take t = 2
_UNIFORMITY_TEXTS = 2048  # of which the pairs are formed


@dataclass(frozen=True, slots=True)
class PairAlignment:
    """What lies between the texts of one language and those of another."""

    parallel: float  # mean cosine of the N parallel pairs
    others: float  # mean cosine of the N * (N - 1) pairs that are not parallel
    recall: dict[int, float]  # k -> share whose parallel text is among the k nearest of the N


def align(one: np.ndarray, other: np.ndarray, ks: Sequence[int] = (1, 10)) -> PairAlignment:
    """Alignment of N parallel texts, asked in the first language.

    Of texts that lie equally near, the parallel one counts last: a model that maps all to one point recalls nothing.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> align(np.array([east, north]), np.array([east, east]))
    PairAlignment(parallel=0.5, others=0.5, recall={1: 0.0, 10: 1.0})

    Args:
        one: (N, D) unit vectors.
        other: (N, D) unit vectors; row n says the same as row n of `one`.
    """
    count = len(one)
    parallel = np.einsum("nd,nd->n", one, other)
    # The sum of all cosines is the product of the sums; no matrix is needed for it.
    everything = float(one.sum(axis=0, dtype=np.float64) @ other.sum(axis=0, dtype=np.float64))
    others = (everything - float(parallel.sum(dtype=np.float64))) / max(count * (count - 1), 1)
    ranks = np.empty(count, np.int64)
    block = max(1, min(count, 2**24 // max(count, 1)))
    for first in range(0, count, block):
        scores = one[first : first + block] @ other.T
        rows = np.arange(len(scores))
        ranks[first : first + block] = (scores >= scores[rows, first + rows][:, None]).sum(axis=1)
    return PairAlignment(float(parallel.mean()), others, {k: float((ranks <= k).mean()) for k in ks})


def uniformity(vectors: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different rows: 0 where all are one point, less where spread.

    Wang and Isola 2020, arXiv 2005.10242, with t = 2. Of many rows, evenly spaced ones are taken.

    >>> round(uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])), 9)  # log exp(-2 * 4)
    -8.0
    """
    if len(vectors) > _UNIFORMITY_TEXTS:
        vectors = vectors[np.linspace(0, len(vectors) - 1, _UNIFORMITY_TEXTS).astype(int)]
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    apart = np.exp(-_UNIFORMITY_T * (2 - 2 * cosines.astype(np.float64)))
    count = len(vectors)
    return float(np.log((apart.sum() - np.trace(apart)) / max(count * (count - 1), 1)))


def alignment_metrics(groups: Sequence[str], languages: Sequence[str], vectors: np.ndarray) -> dict[str, float]:
    """Alignment of every ordered pair of languages that have parallel texts, and the means over pairs.

    Args:
        groups: of each text, the same for texts that say the same; "" for one that has no parallel.
        languages: of each text.
        vectors: (texts, D) unit vectors.

    Returns:
        `cosine`, `cosine_of_others`, `recall@1`, `recall@10` and `uniformity`, those of a pair with `/ar-en` behind;
        nothing where no text has a parallel one.
    """
    row_of = rows_by_language(groups, languages)
    whole: dict[str, list[float]] = {}
    detailed: dict[str, float] = {}
    for rows in parallel_rows(row_of):
        one, other = rows
        if len(rows[one]) < 2:
            continue
        for asked, answered in ((one, other), (other, one)):
            found = align(vectors[rows[asked]], vectors[rows[answered]])
            values = {"cosine": found.parallel, "cosine_of_others": found.others}
            values |= {f"recall@{k}": share for k, share in found.recall.items()}
            for name, value in values.items():
                whole.setdefault(name, []).append(value)
                detailed[f"{name}/{asked}-{answered}"] = value
    if not whole:
        return {}
    parallel = sorted(row for rows_of_language in row_of.values() for row in rows_of_language.values())
    means = {name: float(np.mean(values)) for name, values in whole.items()}
    return means | {"uniformity": uniformity(vectors[parallel])} | detailed


def rows_by_language(groups: Sequence[str], languages: Sequence[str]) -> dict[str, dict[str, int]]:
    """language -> group -> the first row with both; rows whose group is "" are left out."""
    row_of: dict[str, dict[str, int]] = {}
    for row, (group, language) in enumerate(zip(groups, languages, strict=True)):
        if group:
            row_of.setdefault(language, {}).setdefault(group, row)
    return row_of


def parallel_rows(row_of: Mapping[str, Mapping[str, int]]) -> Iterator[dict[str, list[int]]]:
    """For each two languages that share groups, the rows of these groups in either, in the same order.

    >>> list(parallel_rows({"de": {"a": 0, "b": 1}, "en": {"b": 2, "a": 3}, "tr": {"c": 4}}))
    [{'de': [0, 1], 'en': [3, 2]}]
    """
    for pair in combinations(sorted(row_of), 2):
        shared = sorted(row_of[pair[0]].keys() & row_of[pair[1]].keys())
        if shared:
            yield {language: [row_of[language][group] for group in shared] for language in pair}
