"""The difference of two training methods: significance over other seeds and other questions.

Two runs of one method with other seeds differ, so a test over questions, which takes the models as given, calls equal
methods different. Here the seed is the unit of the chance in training, and the cluster that of the choice of questions.

Legend: S seeds that both methods have, C clusters of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from hbt_ray.evaluation.per_query import PerQueryContributions
from hbt_ray.evaluation.significance import CONFIDENCE, LEVEL, cluster_variance

_SMALLEST_P = 1e-12  # nothing smaller is computed


@dataclass(frozen=True, slots=True)
class MethodDifference:
    """The difference of a metric between two methods, the second minus the first.

    Its variance is the sum of two estimates: over seeds, with S - 1 degrees of freedom, and over clusters, less what
    the seeds add to it, with C - 1. The half-width of an interval is the root of the sum of squares of the half-widths
    of both (Zou and Donner 2008), so it is never narrower than that of the paired t-test over seeds.
    """

    by_seed: tuple[float, ...]
    seed_variance: float  # of the mean over the seeds
    cluster_variance: float  # of the mean over the clusters, without the part of the seeds
    clusters: int

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.by_seed))

    @property
    def low(self) -> float:
        """The lower end of the 95% interval."""
        return self.mean - self.half_width(CONFIDENCE)

    @property
    def high(self) -> float:
        """The upper end of the 95% interval."""
        return self.mean + self.half_width(CONFIDENCE)

    @property
    def p_value(self) -> float:
        """The two-sided p-value of no difference."""
        return self.p_at_distance(self.mean)

    @property
    def p_over_seeds(self) -> float:
        """The two-sided p-value of the paired t-test over seeds: of these questions, with other seeds."""
        return replace(self, cluster_variance=0.0).p_at_distance(self.mean)

    @property
    def p_of_sign_flips(self) -> float | None:
        """The p-value of all combinations of signs of the seeds' differences; None where it cannot reach `LEVEL`."""
        seeds = len(self.by_seed)
        if 2 / 2**seeds >= LEVEL:
            return None
        return float(stats.permutation_test((self.by_seed,), np.sum, permutation_type="samples", rng=0).pvalue)

    def half_width(self, confidence: float) -> float:
        """Return half of the width of a two-sided confidence interval."""
        by_seeds, by_clusters = stats.t.isf((1 - confidence) / 2, [len(self.by_seed) - 1, self.clusters - 1])
        return float(np.sqrt(by_seeds**2 * self.seed_variance + by_clusters**2 * self.cluster_variance))

    def p_at_distance(self, distance: float) -> float:
        """Return the two-sided p-value of a value at a distance from the mean: of the interval that ends there."""
        distance = abs(distance)
        if not distance:
            return 1.0
        if self.half_width(1 - _SMALLEST_P) <= distance:
            return _SMALLEST_P
        confidence = optimize.brentq(lambda level: self.half_width(level) - distance, 0.0, 1 - _SMALLEST_P, xtol=1e-14)
        return float(1 - confidence)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value of a difference at or below a bound."""
        half = self.p_at_distance(self.mean - bound) / 2
        return half if self.mean > bound else 1 - half


def compare_methods(differences: Sequence[PerQueryContributions]) -> MethodDifference | None:
    """Compare two methods by the differences of their runs, one for each seed that both have.

    1. Over seeds: the variance of the seeds' differences, divided by S.
    2. Over clusters: `cluster_variance` of the mean over seeds, less the part that comes from the seeds, which is the
       interaction of seeds and clusters, divided by S; at least 0. It is that of readers and cases in studies with
       several readers (Hillis 2007).

    Returns:
        None where it cannot be known: with fewer than two seeds, or with one cluster.

    Raises:
        UserError: the queries are not the same.
    """
    if len(differences) < 2:
        return None
    for other in differences[1:]:
        differences[0] - other  # raises if the queries differ
    sums = [difference.by_cluster() for difference in differences]
    if len(sums[0].totals) < 2:
        return None
    return method_difference(np.array([one.totals for one in sums]), np.array([one.deviations for one in sums]))


def method_difference(totals: np.ndarray, deviations: np.ndarray) -> MethodDifference:
    """Compute the difference of two methods from sums over clusters.

    Args:
        totals: (S, C) of the difference of each seed, S and C > 1.
        deviations: (S, C), whose rows sum to 0; see `per_query.ClusterSums`.
    """
    seeds, clusters = totals.shape
    by_seed = totals.sum(axis=1)
    mean = deviations.mean(axis=0)
    interaction = np.square(deviations - mean).sum() * clusters / ((clusters - 1) * seeds * (seeds - 1))
    return MethodDifference(
        tuple(by_seed.tolist()),
        float(by_seed.var(ddof=1) / seeds),
        max(cluster_variance(mean) - float(interaction), 0.0),
        clusters,
    )


def non_inferiority(difference: MethodDifference, margin: float, *, higher_is_better: bool = True) -> float:
    """Return the one-sided p-value of the second method being worse than the first by a margin or more."""
    if higher_is_better:
        return difference.p_above(-margin)
    return 1 - difference.p_above(margin)


def equivalence(difference: MethodDifference, margin: float) -> float:
    """Return the p-value of a difference of a margin or more in either direction: two one-sided tests.

    Schuirmann 1987. It is below 5% where the 90% interval is within the margin.
    """
    return max(non_inferiority(difference, margin, higher_is_better=better) for better in (True, False))
