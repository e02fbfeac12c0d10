"""Scores, Pareto front and knee."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hbt_ray.search.objectives import compromise_scores, knee, pareto_front, scaled_objective, score


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 3).map(float)))
def test_front_is_what_no_row_dominates_and_the_knee_is_on_it(values: np.ndarray):
    front = pareto_front(values)
    for row, own in enumerate(values):
        beaten = any((other >= own).all() and (other > own).any() for other in values)
        assert front[row] == (not beaten)
    assert front[knee(values)]


@given(
    arrays(float, st.tuples(st.integers(1, 12), st.just(3)), elements=st.integers(0, 3).map(float)),
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.25, 2.0, 1000.0]), min_size=3, max_size=3),
)
def test_best_score_is_on_the_front_and_units_do_not_matter(values, weights, units):
    scores = compromise_scores(values, weights)
    assert scores.max() == pytest.approx(scores[pareto_front(values)].max())
    assert (scores <= 1).all()
    assert compromise_scores(values * units, weights) == pytest.approx(scores)


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 3).map(float)))
def test_only_candidates_with_the_best_of_every_objective_have_a_score_of_one(values: np.ndarray):
    scores = compromise_scores(values, [1.0] * values.shape[1])
    assert ((scores == 1) == (values == values.max(axis=0)).all(axis=1)).all()


def test_candidates_behind_one_that_dominates_all_are_ranked_by_their_distance_to_it():
    assert compromise_scores(np.array([[0.9, 0.9], [0.5, 0.5], [0.1, 0.2]]), [1, 1]) == pytest.approx(
        [1, 1 - ((0.4 / 0.8) ** 2 / 2 + (0.4 / 0.7) ** 2 / 2) ** 0.5, 0]
    )


def test_of_a_gap_less_is_better():
    assert scaled_objective("gap/map", 0.1, 101) == pytest.approx(0.9)
    assert scaled_objective("gap/map", 0.3, 101) == pytest.approx(0.7)


def test_score_is_the_weighted_mean_computed_by_hand():
    metrics = {"mono/map": 0.8, "multi/rank_distance": 30.0}
    assert score(metrics, {"mono/map": 3.0, "multi/rank_distance": 1.0}, passages=101) == pytest.approx(
        (3 * 0.8 + (1 - 30 / 100)) / 4
    )
    assert score({"mono/map": 0.8}, {"mono/map": 1.0, "cross/map": 1.0}, passages=101) == pytest.approx(0.4)
