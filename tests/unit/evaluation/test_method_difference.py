"""Tests of methods hold their level over seeds and questions together, as tests over questions alone do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hbt_ray.errors import UserError
from hbt_ray.evaluation.method_difference import (
    MethodDifference,
    compare_methods,
    equivalence,
    method_difference,
    non_inferiority,
)
from hbt_ray.evaluation.per_query import PerQueryContributions
from hbt_ray.evaluation.significance import LEVEL, cluster_variance
from tests.helpers.slow import slow


def of_clusters(totals: np.ndarray) -> MethodDifference:
    """Return the difference of methods of clusters of equal size: (S, C)."""
    return method_difference(totals, totals - totals.mean(axis=1, keepdims=True))


def contributions(terms: list[float], clusters: list[str], language: str = "en") -> PerQueryContributions:
    keys = tuple((f"q{n}", language, language) for n in range(len(terms)))
    return PerQueryContributions(keys, tuple(key[0] for key in keys), np.array(terms), tuple(clusters))


def test_difference_of_two_seeds_and_two_clusters_on_paper():
    found = of_clusters(np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert found.by_seed == (4, 8)
    assert found.mean == 6
    assert found.seed_variance == 8 / 2
    # Deviations (-1, 1) and (-2, 2), their mean (-1.5, 1.5): 2 (2.25 + 2.25) = 9. Interaction: 2 (4 * 0.25) / 2 = 1.
    assert found.cluster_variance == 9 - 1
    t = stats.t.ppf(0.975, 1)
    assert found.high - 6 == pytest.approx(t * 12**0.5)
    assert found.p_value == pytest.approx(2 * stats.t.sf(6 / 12**0.5, 1))


def test_questions_that_all_agree_leave_the_paired_t_test():
    by_seed = np.array([0.01, 0.03, 0.02, 0.05])
    found = of_clusters(np.repeat(by_seed[:, None] / 10, 10, axis=1))
    expected = stats.ttest_1samp(by_seed, 0)
    assert found.cluster_variance == pytest.approx(0, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.p_over_seeds == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_sign_flips_of_seeds_need_six_to_reach_the_level():
    assert of_clusters(np.full((5, 2), 0.1)).p_of_sign_flips is None
    assert of_clusters(np.full((6, 2), 0.1)).p_of_sign_flips == 2 / 2**6


def test_one_seed_or_one_cluster_is_not_known():
    one = contributions([0.1, 0.2], ["p", "r"])
    assert compare_methods([]) is None
    assert compare_methods([one]) is None
    same = contributions([0.1, 0.2], ["p", "p"])
    assert compare_methods([same, same]) is None
    with pytest.raises(UserError, match="same queries"):
        compare_methods([one, contributions([0.1], ["p"])])


def test_equal_runs_have_no_difference_and_are_equivalent():
    zero = contributions([0.0, 0.0], ["p", "r"])
    found = compare_methods([zero, zero])
    assert found is not None
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert equivalence(found, 0.01) < LEVEL


def test_languages_with_few_questions_have_their_weight_in_a_cluster():
    """A cluster's deviation is from the mean of each language, so a larger cluster is not a larger difference."""
    languages = [contributions([0.1] * n, ["p"] * (n - 1) + ["r"], x) for n, x in ((4, "de"), (2, "sw"))]
    both = PerQueryContributions(
        sum((one.keys for one in languages), ()),
        sum((one.groups for one in languages), ()),
        np.concatenate([one.terms for one in languages]),
        ("p", "p", "p", "r", "p", "r"),
    )
    sums = both.by_cluster()
    assert sums.totals == pytest.approx([0.4, 0.2])
    assert sums.deviations == pytest.approx([0, 0], abs=1e-12)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.001, 10), st.floats(0.001, 1), st.floats(0.001, 1)
)
def test_intervals_and_p_values_agree_and_are_ordered(by_seed, variance, margin, more):
    found = MethodDifference(tuple(by_seed), float(np.var(by_seed, ddof=1)), variance, 40)
    assert found.low <= found.mean <= found.high
    assert (found.p_value < LEVEL) == (found.low > 0 or found.high < 0)
    assert 0 <= found.p_over_seeds <= found.p_value + 1e-9 <= 1 + 1e-9
    assert non_inferiority(found, margin + more) <= non_inferiority(found, margin)
    assert equivalence(found, margin + more) <= equivalence(found, margin)
    assert equivalence(found, margin) >= non_inferiority(found, margin)
    reverse = MethodDifference(tuple(-value for value in by_seed), found.seed_variance, variance, 40)
    assert non_inferiority(reverse, margin, higher_is_better=False) == pytest.approx(non_inferiority(found, margin))


def test_equivalence_is_an_interval_of_90_percent_in_the_margin():
    found = MethodDifference((0.01, 0.03), 0.0001, 0.0001, 20)
    bound = found.mean + found.half_width(0.9)
    assert equivalence(found, bound * 1.001) < LEVEL < equivalence(found, bound * 0.999)
    assert non_inferiority(found, 0.05) == pytest.approx(found.p_at_distance(0.07) / 2)


def falsely_different(seeds: int, seed_sd: float, cluster_sd: float, *, draws: int, clusters: int = 24) -> list[float]:
    """Return how often equal methods are called different by the test over questions, and by that of methods.

    Standard deviations are those of the metric's difference by the choice of one seed, and of the clusters.
    """
    rng = np.random.default_rng([seeds, draws])
    questions = methods = 0
    for _ in range(draws):
        totals = rng.normal(0, seed_sd, (seeds, 1)) / clusters
        totals = totals + rng.normal(0, cluster_sd / clusters**0.5, (seeds, clusters))
        found = of_clusters(totals)
        error = cluster_variance((totals - totals.mean(axis=1, keepdims=True)).mean(axis=0)) ** 0.5
        questions += abs(found.mean) > stats.t.ppf(0.975, clusters - 1) * error
        methods += found.low > 0 or found.high < 0
    return [questions / draws, methods / draws]


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_placebo_of_equal_methods_is_called_different_in_5_percent(seeds):
    """Rank distance over seeds has a standard deviation of 1,256, so a difference of two runs has 1,256 √2."""
    by_questions, by_methods = falsely_different(seeds, 1256 * 2**0.5, 300, draws=1000)
    assert by_questions > 0.7
    assert by_methods <= 0.068  # the 99.5th percentile of 1,000 draws at 5%


@slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("cluster_sd", [15, 300, 1500])
def test_placebo_holds_in_many_draws(seeds, cluster_sd):
    assert falsely_different(seeds, 1256 * 2**0.5, cluster_sd, draws=20_000)[1] <= 0.055


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("share", [0.25, 0.6])
def test_coverage_over_seeds_and_questions_holds(seeds, share):
    """The true difference of the method differs by cluster, with a share of the variance of the mean."""
    rng = np.random.default_rng([seeds, round(100 * share)])
    covered, draws, clusters = 0, 600, 24
    for _ in range(draws):
        effects = rng.normal(0, (share / clusters) ** 0.5, (1, clusters))
        of_seeds = rng.normal(0, ((1 - share) * seeds) ** 0.5, (seeds, 1)) / clusters
        found = of_clusters(effects + of_seeds)
        covered += found.low <= 0 <= found.high
    assert covered / draws >= 0.925  # the 0.5th percentile of 600 draws at 95%
