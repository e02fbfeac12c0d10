"""Significance of the difference of two models over other questions: paired tests over clusters of queries.

A metric is a weighted sum over queries (`per_query`), and so is the difference of two runs. Queries that are not
independent, such as translations of one question and questions on one paragraph, form one *cluster*, and clusters are
the unit of the test. It says nothing of other seeds; `method_difference` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from hbt_ray.evaluation.per_query import ClusterSums, PerQueryContributions, mean_of, query_sum

RESAMPLES = 9999
CONFIDENCE = 0.95
LEVEL = 0.05  # p-values below it are significant
_BATCH = 512  # resamples held in memory at once
_SMALLEST_SHOWN = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between two models, the second minus the first."""

    mean: float
    low: float  # of the 95% confidence interval over clusters; NaN for one cluster
    high: float
    p_value: float  # two-sided probability of a difference at least as large by chance
    clusters: int
    at_floor: bool = False  # the p-value is the smallest that the test can have
    is_grouped: bool = False  # clusters are only the translations of a question; see `ClusterSums`


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
    """Compute Fisher's randomisation test and a confidence interval of a difference that is a sum over queries.

    The test flips the sign of each cluster's difference at random (Smucker, Allan and Carterette 2007); with few
    clusters, all combinations are enumerated. The interval is Student's t with the standard error of
    `cluster_variance` and one degree of freedom less than clusters.
    """
    return clusters_test(difference.by_cluster(), seed=seed)


def clusters_test(sums: ClusterSums, *, seed: int = 0) -> Difference:
    """Compute `randomisation_test` of a difference that is summed over clusters."""
    clusters, mean = len(sums.totals), float(sums.totals.sum())
    if not sums.totals.any():
        return Difference(0.0, 0.0, 0.0, 1.0, clusters, is_grouped=sums.is_grouped)
    if clusters < 2:  # either sign is as large
        return Difference(mean, np.nan, np.nan, 1.0, clusters, is_grouped=sums.is_grouped)
    outcome = stats.permutation_test(
        (sums.totals,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    floor = 2 / min(2.0**clusters, RESAMPLES + 1)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1)) * cluster_variance(sums.deviations) ** 0.5
    return Difference(
        mean,
        mean - half_width,
        mean + half_width,
        float(outcome.pvalue),
        clusters,
        at_floor=bool(outcome.pvalue <= floor * (1 + 1e-9)),
        is_grouped=sums.is_grouped,
    )


def cluster_variance(deviations: np.ndarray) -> float:
    """Return the variance of a metric over the choice of C clusters: C / (C - 1) times the sum of squares.

    The cluster-robust variance of a sum of means (Liang and Zeger 1986, with the correction for few clusters).

    Args:
        deviations: (C,), see `ClusterSums`; C > 1.
    """
    clusters = len(deviations)
    return float(clusters / (clusters - 1) * np.square(deviations).sum())


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


def format_p(p_value: float | None, *, at_floor: bool = False) -> str:
    """Format a p-value with four decimals, as an upper bound where it is the smallest that the test can have.

    >>> format_p(0.0312), format_p(0.0024, at_floor=True), format_p(1e-9), format_p(None)
    ('0.0312', '≤ 0.0024', '≤ 0.0001', 'not known')
    """
    if p_value is None:
        return "not known"
    is_bound = at_floor or p_value < _SMALLEST_SHOWN
    return f"{'≤ ' if is_bound else ''}{max(p_value, _SMALLEST_SHOWN):.4f}"
