"""Formulas of language bias in the pool of all languages, in addition to `metrics.rank_distance`.

Legend: Q queries, R relevant passages of the query that has most, K passages listed for each query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.evaluation.alignment import parallel_rows, rows_by_language

PERSISTENCE = (
    0.9  # of rank-biased overlap: Webber et al. 2010 take 0.9, which gives the first 10 positions 86% of the weight
)
_BLOCK = 256  # rankings compared at once, K * K bytes each


def same_language_first(ranks: np.ndarray, is_query_language: np.ndarray) -> np.ndarray:
    """Return 1 where the highest-ranked relevant passage is in the query's language, else 0.

    Where several share the highest rank, because an approximate index missed all, it is the part of them in that
    language, the mean over their orders. A model without a preference gives 1 / n where n languages have one relevant
    passage each.

    >>> same_language_first(np.array([[3, 1], [2, 5], [4, 0]]), np.array([[1, 0], [1, 0], [1, 0]], bool)).tolist()
    [0.0, 1.0, nan]

    Args:
        ranks: (Q, R) in the pool of all languages, as in `metrics`.
        is_query_language: (Q, R) bool, whether the passage is in the query's language.

    Returns:
        (Q,), NaN where the query has no relevant passage in its language, or none in another.
    """
    found = ranks > 0
    has_both = (found & is_query_language).any(axis=1) & (found & ~is_query_language).any(axis=1)
    ordered = np.where(found, ranks, np.iinfo(np.int64).max)
    is_first = ordered == ordered.min(axis=1, keepdims=True)
    share = (is_first & is_query_language).sum(axis=1) / is_first.sum(axis=1)
    defined: np.ndarray = np.where(has_both, share, np.nan)
    return defined


def max_rank(ranks: np.ndarray) -> np.ndarray:
    """Return the highest rank of the relevant passages, by which all of them are found: (Q, R) -> (Q,).

    Max@R of Hong et al. 2026 (arXiv 2604.05684): the worst rank needed to recover all parallel documents of a query.
    Its mean over queries is reported in ranks. A random order of P passages with n relevant gives n / (n + 1) * (P + 1)
    on average; no order gives less than n. A passage that the pool lacks does not count.

    >>> max_rank(np.array([[7, 3, 10], [4, 0, 0], [0, 0, 0]])).tolist()
    [10.0, 4.0, nan]
    """
    highest: np.ndarray = np.where((ranks > 0).any(axis=1), ranks.max(axis=1, initial=0), np.nan)
    return highest


def complete(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return 1 where all relevant passages are among the first k, else 0: Complete@k, (Q, R) -> (Q,).

    It is 1 where recall@k is 1. A query with more than k relevant passages has no value, whatever the ranking: with one
    relevant passage in each of 11 languages, k is 11 or more. A passage that the pool lacks counts as not found, and a
    query without relevant passages has 0.

    >>> complete(np.array([[1, 2, 0], [1, 3, 0], [1, 2, 3], [0, 0, 0]]), 2).tolist()
    [1.0, 0.0, nan, 0.0]
    """
    relevant = (ranks != 0).sum(axis=1)
    found = ((ranks > 0) & (ranks <= k)).sum(axis=1)
    values: np.ndarray = np.where(relevant > k, np.nan, (found == relevant) & (relevant > 0))
    return values


def rank_biased_overlap(one: np.ndarray, other: np.ndarray, persistence: float = PERSISTENCE) -> np.ndarray:
    """Return the similarity of two rankings, top-weighted: 0 without a common passage, 1 for equal rankings.

    Webber, Moffat and Zobel 2010, equation 32: extrapolated from the listed passages to the whole ranking.

    >>> rank_biased_overlap(np.array([[1, 2]]), np.array([[2, 1]]), 0.5).tolist()  # 0.5 * (0 + 0.5 * 1) + 0.25 * 1
    [0.5]

    Args:
        one: (N, K) passages of N rankings, best first; below 0 for none.
        other: (N, K) passages of the N rankings to compare with.
        persistence: weight of each position relative to the one before, 0 to 1.

    Returns:
        (N,)
    """
    count, depth = one.shape
    equal = (one[:, :, None] == other[:, None, :]) & (one >= 0)[:, :, None]  # (N, K, K)
    rows, positions = np.nonzero(equal.any(axis=2))
    common_from = np.maximum(positions, equal.argmax(axis=2)[rows, positions])
    shared = np.zeros((count, depth))
    np.add.at(shared, (rows, common_from), 1)
    agreement = shared.cumsum(axis=1) / np.arange(1, depth + 1)
    listed = (1 - persistence) * (agreement * persistence ** np.arange(depth)).sum(axis=1)
    overlap: np.ndarray = listed + agreement[:, -1] * persistence**depth
    return overlap


def consistency(
    groups: Sequence[str], languages: Sequence[str], passage_indices: np.ndarray
) -> dict[tuple[str, str], float]:
    """Return the mean rank-biased overlap of the rankings of a query's translations, for each pair of languages.

    Args:
        groups: (Q,) equal for translations of one query; "" where there are none.
        languages: (Q,) of the queries.
        passage_indices: (Q, K) of the passages listed for each query, best first.
    """
    means = {}
    for rows in parallel_rows(rows_by_language(groups, languages)):
        one, other = rows
        first, second = passage_indices[rows[one]], passage_indices[rows[other]]
        blocks = (slice(start, start + _BLOCK) for start in range(0, len(first), _BLOCK))
        overlaps = [rank_biased_overlap(first[block], second[block]) for block in blocks]
        means[one, other] = float(np.concatenate(overlaps).mean())
    return means


def peer(ranks: np.ndarray, languages: np.ndarray, grades: np.ndarray, depth: int) -> np.ndarray:
    """Return the Probability of Equal Expected Rank, PEER (Yang et al. 2024, arXiv 2405.00978): 1 is fair, 0 is not.

    1. For each grade of a query, test by Kruskal and Wallis whether the relevant passages of all languages have equal
       expected ranks; take the p-value.
    2. Average over the grades.

    Where all relevant passages are among the first `depth`, it equals the authors' package `peer_measure` 0.0.1. Those
    beyond share the mean of the ranks right after `depth` here; the package places them after as many ranks as the
    query has relevant passages of the grade. It is not defined where each language has one relevant passage: every
    order gives the same value.

    Args:
        ranks: (Q, R) in the pool of all languages, as in `metrics`.
        languages: (Q, R) of the passages.
        grades: (Q, R), 0 where a query has fewer than R.
        depth: ranks beyond it are tied.

    Returns:
        (Q,), NaN for a query whose relevant passages are in one language, or one in each.
    """
    values = np.full(len(ranks), np.nan)
    for row, (query_ranks, query_languages, query_grades) in enumerate(zip(ranks, languages, grades, strict=True)):
        is_relevant = query_grades > 0
        if not 1 < len(set(query_languages[is_relevant])) < is_relevant.sum():
            continue
        is_beyond = is_relevant & ((query_ranks <= 0) | (query_ranks > depth))
        tied_ranks = np.where(is_beyond, depth + (is_beyond.sum() + 1) / 2, query_ranks)
        p_values = [
            _equal_rank_probability(
                [
                    tied_ranks[has_grade & (query_languages == language)]
                    for language in sorted(set(query_languages[has_grade]))
                ]
            )
            for grade in np.unique(query_grades[is_relevant])
            for has_grade in [query_grades == grade]
        ]
        values[row] = np.mean(p_values)
    return values


def _equal_rank_probability(samples: Sequence[np.ndarray]) -> float:
    """Return the p-value of the test of Kruskal and Wallis 1952 with the given ranks; 1 for a single sample."""
    # Imported late: modules that only name metrics need not wait for SciPy.
    from scipy import stats

    together = np.concatenate(samples)
    spread = np.square(together - together.mean()).sum()
    if len(samples) < 2 or spread == 0:
        return 1.0
    between = sum(len(sample) * (sample.mean() - together.mean()) ** 2 for sample in samples)
    return float(stats.chi2.sf((len(together) - 1) * between / spread, len(samples) - 1))
