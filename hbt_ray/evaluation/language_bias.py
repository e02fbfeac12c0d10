"""Which language a model favours in the pool of all languages, beyond `metrics.rank_distance`.

Legend: Q queries, R relevant passages of the query that has most, K passages listed for each query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.evaluation.alignment import parallel_rows, rows_by_language

PERSISTENCE = 0.9  # of rank-biased overlap: Webber et al. 2010 take 0.9, which gives the first 10 places 86%
_BLOCK = 256  # rankings compared at once, K * K bytes each


def same_language_first(ranks: np.ndarray, own_language: np.ndarray) -> np.ndarray:
    """Whether a passage in the query's own language is the first of its relevant ones: 1 or 0.

    A model without preference gives 1 / n where n languages have one relevant passage each.

    >>> same_language_first(np.array([[3, 1], [2, 5], [4, 0]]), np.array([[1, 0], [1, 0], [1, 0]], bool)).tolist()
    [0.0, 1.0, nan]

    Args:
        ranks: (Q, R) in the pool of all languages, as in `metrics`.
        own_language: (Q, R) whether the passage is in the query's language.

    Returns:
        (Q,), NaN where the query has no relevant passage in its own language, or none in another.
    """
    found = ranks > 0
    choice = (found & own_language).any(axis=1) & (found & ~own_language).any(axis=1)
    best = np.where(found, ranks, np.iinfo(np.int64).max).argmin(axis=1)
    own = own_language[np.arange(len(ranks)), best].astype(float)
    preferred: np.ndarray = np.where(choice, own, np.nan)
    return preferred


def rank_biased_overlap(one: np.ndarray, other: np.ndarray, persistence: float = PERSISTENCE) -> np.ndarray:
    """How alike two rankings are, the first places counting most: 0 without a shared passage, 1 for equal rankings.

    Webber, Moffat and Zobel 2010, equation 32: their extrapolation to the whole ranking from what is listed.

    >>> rank_biased_overlap(np.array([[1, 2]]), np.array([[2, 1]]), 0.5).tolist()  # 0.5 * (0 + 0.5 * 1) + 0.25 * 1
    [0.5]

    Args:
        one: (N, K) passages of N rankings, best first; below 0 for none.
        other: (N, K) those that they are compared with.

    Returns:
        (N,)
    """
    count, depth = one.shape
    equal = (one[:, :, None] == other[:, None, :]) & (one >= 0)[:, :, None]  # (N, K, K)
    rows, places = np.nonzero(equal.any(axis=2))
    both_listed_at = np.maximum(places, equal.argmax(axis=2)[rows, places])
    shared = np.zeros((count, depth))
    np.add.at(shared, (rows, both_listed_at), 1)
    agreement = shared.cumsum(axis=1) / np.arange(1, depth + 1)
    listed = (1 - persistence) * (agreement * persistence ** np.arange(depth)).sum(axis=1)
    overlap: np.ndarray = listed + agreement[:, -1] * persistence**depth
    return overlap


def consistency(groups: Sequence[str], languages: Sequence[str], columns: np.ndarray) -> dict[tuple[str, str], float]:
    """Mean rank-biased overlap of what the same question lists in two languages, for each pair of them.

    Args:
        groups: (Q,) the same for translations of one question; "" where there are none.
        languages: (Q,) of the queries.
        columns: (Q, K) passages listed for each query, best first.
    """
    means = {}
    for rows in parallel_rows(rows_by_language(groups, languages)):
        one, other = rows
        first, second = columns[rows[one]], columns[rows[other]]
        blocks = (slice(start, start + _BLOCK) for start in range(0, len(first), _BLOCK))
        overlaps = [rank_biased_overlap(first[block], second[block]) for block in blocks]
        means[one, other] = float(np.concatenate(overlaps).mean())
    return means


def peer(ranks: np.ndarray, languages: np.ndarray, grades: np.ndarray, depth: int) -> np.ndarray:
    """Probability of Equal Expected Rank, PEER (Yang et al. 2024, arXiv 2405.00978): 1 is fair, 0 is not.

    For each grade the probability, by the test of Kruskal and Wallis over the places in the ranking, that relevant
    passages of all languages have the same expected rank; the mean over a query's grades. Where all of them are among
    the first `depth` it is what the authors' package `peer_measure` 0.0.1 computes. Those beyond share the places
    behind `depth` here; the package puts them behind as many places as the query has relevant passages of the grade.
    It says nothing where each language has one relevant passage: any order then gives the same.

    Args:
        ranks: (Q, R) in the pool of all languages, as in `metrics`.
        languages: (Q, R) of the passages.
        grades: (Q, R), 0 where a query has fewer than R.

    Returns:
        (Q,), NaN for a query whose relevant passages are in one language, or one in each.
    """
    values = np.full(len(ranks), np.nan)
    for row, (places, spoken, graded) in enumerate(zip(ranks, languages, grades, strict=True)):
        there = graded > 0
        if not 1 < len(set(spoken[there])) < there.sum():
            continue
        beyond = there & ((places <= 0) | (places > depth))
        counted = np.where(beyond, depth + (beyond.sum() + 1) / 2, places)
        each = [
            _equal_rank_probability([counted[same & (spoken == language)] for language in sorted(set(spoken[same]))])
            for grade in np.unique(graded[there])
            for same in [graded == grade]
        ]
        values[row] = np.mean(each)
    return values


def _equal_rank_probability(samples: Sequence[np.ndarray]) -> float:
    """Kruskal and Wallis 1952, of places that are compared as they are: 1 for a single sample."""
    # Imported late: modules that only name metrics need not wait for SciPy.
    from scipy import stats

    together = np.concatenate(samples)
    spread = np.square(together - together.mean()).sum()
    if len(samples) < 2 or spread == 0:
        return 1.0
    between = sum(len(sample) * (sample.mean() - together.mean()) ** 2 for sample in samples)
    return float(stats.chi2.sf((len(together) - 1) * between / spread, len(samples) - 1))
