"""Mono minus cross and its interval equal values on paper and a second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.evaluation.language_gap import language_gap

VALUES = {
    ("de", "de"): np.array([1.0, 0.5]),
    ("de", "en"): np.array([0.5, 0.5]),
    ("de", "sw"): np.array([0.25]),
    ("en", "en"): np.array([0.8, 0.6, 0.4]),
    ("en", "de"): np.array([0.3, 0.3, 0.3]),
    ("sw", "sw"): np.array([0.9]),  # no pool of another language
    ("tr", "de"): np.array([0.9]),  # no pool of its own language
}
CLUSTERS = {pair: np.arange(len(values)) for pair, values in VALUES.items()}


def test_gap_on_paper():
    gap = language_gap(VALUES, CLUSTERS)
    assert gap.by_language == pytest.approx({"de": 0.75 - (0.5 + 0.25) / 2, "en": 0.6 - 0.3})
    assert gap.mean == pytest.approx((0.375 + 0.3) / 2)


def test_one_cluster_of_questions_has_no_interval():
    one = {pair: np.full(len(values), 3) for pair, values in VALUES.items()}  # the others have no such question
    gap = language_gap(VALUES, one)
    assert gap.mean == pytest.approx((0.375 + 0.3) / 2)
    assert np.isnan([gap.low, gap.high]).all()


def test_without_a_language_that_has_both_there_is_no_gap():
    assert language_gap({}, {}) is None
    assert language_gap({("sw", "sw"): np.array([0.9]), ("tr", "de"): np.array([0.9])}, CLUSTERS) is None


def test_interval_equals_a_bootstrap_of_whole_clusters():
    rng = np.random.default_rng(3)
    languages, num_clusters = ("de", "en", "sw"), 60
    members = {language: np.flatnonzero(rng.random(num_clusters) < 0.7) for language in languages}
    hard = 0.5 * rng.random(num_clusters)  # translations of a question are alike
    clusters = {(one, other): members[one] for one in languages for other in languages}
    values = {
        pair: hard[of_pair] + 0.4 * (pair[0] == pair[1]) * hard[of_pair] + 0.05 * rng.random(len(of_pair))
        for pair, of_pair in clusters.items()
    }

    def resampled() -> float:
        drawn = rng.integers(num_clusters, size=num_clusters)
        mean = {}
        for pair, of_pair in clusters.items():
            times = np.bincount(drawn, minlength=num_clusters)[of_pair]
            mean[pair] = (times * values[pair]).sum() / times.sum()
        return float(np.mean([mean[q, q] - np.mean([mean[q, p] for p in languages if p != q]) for q in languages]))

    low, high = np.quantile([resampled() for _ in range(3000)], [0.025, 0.975])
    gap = language_gap(values, clusters)
    assert (gap.low, gap.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert gap.low < gap.mean < gap.high
