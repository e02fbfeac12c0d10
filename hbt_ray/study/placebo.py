"""A placebo: how often a method is called different from itself, by the seeds of a finished study.

The seeds of one method are split in halves in every way, and one half is compared with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hbt_ray.evaluation.method_difference import method_difference
from hbt_ray.evaluation.per_query import ClusterSums, PerQueryContributions
from hbt_ray.evaluation.significance import LEVEL, clusters_test

LEAST_SEEDS = 6  # three in each half
_MOST_SEEDS = 10  # of which there are 126 splits


@dataclass(frozen=True, slots=True)
class Placebo:
    """The number of splits of a method's seeds whose halves are called different, with p-values below the level."""

    splits: int
    by_models: int  # by the test over questions only
    by_methods: int  # by the test over seeds and questions


def placebo(by_seed: Sequence[PerQueryContributions]) -> Placebo | None:
    """Compare every half of a method's seeds with the other half.

    The splits share their runs, so the counts of one method say less than as many independent comparisons.

    Args:
        by_seed: a metric of one method; of an odd number, the last is left out, and of more than 10, the others.

    Returns:
        None with fewer than `LEAST_SEEDS`, with one cluster, or where the seeds do not differ.

    Raises:
        UserError: the queries are not the same.
    """
    if len(by_seed) < LEAST_SEEDS:
        return None
    used = by_seed[: min(len(by_seed), _MOST_SEEDS) // 2 * 2]
    by_cluster = [(one - (used[0] - used[0])).by_cluster() for one in used]  # raises if the queries differ
    totals = np.array([one.totals for one in by_cluster])
    deviations = np.array([one.deviations for one in by_cluster])
    if totals.shape[1] < 2 or not (totals - totals[0]).any():
        return None
    halves = [half for half in combinations(range(len(used)), len(used) // 2) if 0 in half]
    by_models = by_methods = 0
    for half in halves:
        other = [seed for seed in range(len(used)) if seed not in half]
        of_totals, of_deviations = (sums[other] - sums[list(half)] for sums in (totals, deviations))
        means = ClusterSums(of_totals.mean(axis=0), of_deviations.mean(axis=0), is_grouped=False)
        by_models += clusters_test(means).p_value < LEVEL
        by_methods += method_difference(of_totals, of_deviations).p_value < LEVEL
    return Placebo(len(halves), by_models, by_methods)
