"""Average precision in a random part of a pool, so that pools of different sizes can be compared.

A query's relevant passages are easier to find among few passages. Here every pool is reduced to the same size: it keeps
the relevant passages of the query, and the others are a random sample without replacement. No sample is drawn: the
ranks in the whole pool determine the expected value over all samples.

Legend: Q queries, R relevant passages of the query that has most, C different cases.
"""

from __future__ import annotations

import numpy as np

_NONE = np.iinfo(np.int64).max  # in place of a rank
_DEVIATIONS = 4.5  # half the width of the summed range; see `_expected_precisions`
_TERMS_PER_BLOCK = 1 << 20


def expected_average_precision(ranks: np.ndarray, num_passages: np.ndarray, sample_size: int) -> np.ndarray:
    """Return the average precision that is expected in a random part of the pool.

    1. The pool of a query has N passages, R of them relevant. It keeps these, and n - R of the N - R others.
    2. The i-th relevant passage, at rank r, has r - i others above it, of which X are kept: X is hypergeometric.
    3. Its precision is then i / (i + X). Average precision is a sum of precisions, so the sum of their expected values
       is exact; it is divided by the number of relevant passages.

    A pool that has `sample_size` passages or fewer is used whole.

    >>> expected_average_precision(np.array([[2]]), np.array([3]), 2).tolist()  # 1 and 1/2 are equally likely
    [0.75]

    Args:
        ranks: (Q, R) in the whole pool, as in `metrics`.
        num_passages: (Q,) N.
        sample_size: n.

    Returns:
        (Q,), 0 for a query with no relevant passage.
    """
    found = (ranks > 0).sum(axis=1)
    ascending = np.sort(np.where(ranks > 0, ranks.astype(np.int64), _NONE), axis=1)
    rows, positions = np.nonzero(ascending < _NONE)
    others = num_passages - found
    drawn = np.clip(sample_size - found, 0, others)
    above = np.maximum(ascending[rows, positions] - positions - 1, 0)
    cases, case_of = np.unique(
        np.stack([positions + 1, above, others[rows], drawn[rows]], axis=1), axis=0, return_inverse=True
    )
    sums = np.bincount(rows, _expected_precisions(*cases.T)[case_of.ravel()], len(ranks))
    relevant = (ranks != 0).sum(axis=1)
    return np.divide(sums, relevant, where=relevant > 0, out=np.zeros(len(ranks)))


def _expected_precisions(position: np.ndarray, above: np.ndarray, others: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the expected value of i / (i + X), where X of the others above are among those drawn: (C,) float64.

    X is summed over the range that it leaves with a probability below 1e-17: a deviation of t from its mean has one of
    at most 2 exp(-2 t^2 / (drawn (1 - (drawn - 1) / others))) (Serfling 1974, corollary 1.1).
    """
    # Imported late: modules that only name metrics need not wait for SciPy.
    from scipy.special import gammaln

    log_factorial = gammaln(np.arange(others.max(initial=0) + 1) + 1.0)
    mean = drawn * above / np.maximum(others, 1)
    reach = _DEVIATIONS * np.sqrt(drawn * (1 - np.maximum(drawn - 1, 0) / np.maximum(others, 1)))
    lowest = np.maximum(np.maximum(0, drawn + above - others), np.floor(mean - reach)).astype(np.int64)
    highest = np.minimum(np.minimum(above, drawn), np.ceil(mean + reach)).astype(np.int64)
    expected = np.empty(len(position))
    width = int((highest - lowest).max(initial=0)) + 1
    rows_per_block = max(1, _TERMS_PER_BLOCK // width)
    for first in range(0, len(position), rows_per_block):
        block = slice(first, first + rows_per_block)
        i, k, m, top = (values[block, None] for values in (position, above, drawn, highest))
        kept = np.minimum(lowest[block, None] + np.arange(width), top)  # X
        log_weights = -(
            log_factorial[kept]
            + log_factorial[k - kept]
            + log_factorial[m - kept]
            + log_factorial[others[block, None] - k - m + kept]
        )
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        weights[lowest[block, None] + np.arange(width) > top] = 0
        expected[block] = (weights * i / (i + kept)).sum(axis=1) / weights.sum(axis=1)
    return expected
