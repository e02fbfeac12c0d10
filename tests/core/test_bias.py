"""Measures of language bias, on paper and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.bias import consistency, rank_biased_overlap, same_language_first


def test_the_first_of_the_parallel_passages_decides():
    own = np.array([[True, False, False]] * 4)
    ranks = np.array([[2, 1, 9], [1, 2, 3], [5, 0, 0], [0, 4, 6]])
    assert same_language_first(ranks, own)[:2].tolist() == [0, 1]
    assert np.isnan(same_language_first(ranks, own)[2:]).all()  # no choice between languages


def test_without_preference_a_language_comes_first_as_often_as_the_others():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(100)[:4] + 1 for _ in range(4000)])
    own = np.zeros((4000, 4), bool)
    own[:, 1] = True
    assert same_language_first(ranks, own).mean() == pytest.approx(1 / 4, abs=3 * (0.25 * 0.75 / 4000) ** 0.5)


def test_overlap_on_paper():
    # Webber et al. 2010: agreement at each depth, here 1/1, 1/2 and 2/3, each weighted by (1 - p) * p ** (depth - 1).
    p = 0.9
    expected = (1 - p) * (1 + p / 2 + p**2 * 2 / 3) + 2 / 3 * p**3
    assert rank_biased_overlap(np.array([[1, 2, 3]]), np.array([[1, 3, 9]]))[0] == pytest.approx(expected)


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_overlap_is_symmetric_and_lies_between_none_and_all(one: list[int], other: list[int]):
    first, second = np.array([one[:5]]), np.array([other[:5]])
    overlap = rank_biased_overlap(first, second)[0]
    assert overlap == pytest.approx(rank_biased_overlap(second, first)[0])
    assert 0 <= overlap <= 1 + 1e-12
    assert rank_biased_overlap(first, first)[0] == pytest.approx(1)
    assert rank_biased_overlap(first, first + 100)[0] == 0


def test_consistency_compares_translations_alone():
    columns = np.array([[1, 2], [5, 6], [1, 2], [7, 8], [9, 4]])
    groups = ["a", "b", "a", "b", ""]
    found = consistency(groups, ["de", "de", "en", "en", "en"], columns)
    assert found == {("de", "en"): pytest.approx((1 + 0) / 2)}
