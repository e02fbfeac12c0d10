"""Significance of the difference of two runs: paired tests over queries.

A metric is a weighted sum over queries (`per_query`), and so is the difference of two runs. Translations of one query,
and one query in several pools, are not independent; they form one *group*, and groups are what is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from hbt_ray.evaluation.per_query import PerQueryContributions, mean_of, query_sum

RESAMPLES = 9999
CONFIDENCE = 0.95
LEVEL = 0.05  # p-values below it are significant
_BATCH = 512  # resamples held in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between two runs, the second minus the first."""

    mean: float
    low: float  # of the 95% confidence interval
    high: float
    p_value: float  # two-sided probability of a difference at least as large by chance
    groups: int


def compare_queries(one: Sequence[pa.Table], other: Sequence[pa.Table], metric: str, *, seed: int = 0) -> Difference:
    """Test the difference of a metric between two runs with `randomisation_test`.

    Args:
        one: per-query tables of a run, or of its repetitions with other seeds; each query counts with its mean.
        other: per-query tables of the run to compare with.
        metric: without its benchmark, such as "mono/map"; see `per_query.query_sum`.
        seed: of the resampling.

    Raises:
        UserError: the tables are not of the same queries.
    """
    first, second = (mean_of([query_sum(table, metric) for table in tables]) for tables in (one, other))
    return randomisation_test(second - first, seed=seed)


def randomisation_test(difference: PerQueryContributions, *, seed: int = 0) -> Difference:
    """Compute Fisher's randomisation test and a bootstrap interval of a difference that is a sum over queries.

    The test flips the sign of each group's difference at random (Smucker, Allan and Carterette 2007); with few groups,
    all combinations are enumerated. The interval is the percentile bootstrap over groups (Efron and Tibshirani 1993,
    chapter 13).
    """
    differences = difference.by_group()
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0, len(differences))
    generator = np.random.default_rng(seed)
    outcome = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=RESAMPLES, batch=_BATCH, rng=generator
    )
    if len(differences) < 2:
        low = high = float(differences.sum())
    else:
        drawn = stats.bootstrap(
            (differences,),
            np.sum,
            n_resamples=RESAMPLES,
            batch=_BATCH,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=generator,
        )
        low, high = drawn.confidence_interval
    return Difference(float(differences.sum()), float(low), float(high), float(outcome.pvalue), len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing, so that the family-wise error rate keeps its bound. Holm 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected = [0.0] * len(order)
    largest = 0.0
    for position, number in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(order) - position) * p_values[number]))
        corrected[number] = largest
    return corrected
