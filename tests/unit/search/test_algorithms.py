"""The candidates of each algorithm."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.search.algorithms import list_candidates
from tests.unit.search.searches import search_of


def test_grid_has_every_combination_once():
    search = search_of(space={"mix.alpha": [0.0, 0.5, 0.5], "train.learning_rate": [1e-3, 1e-4]})
    assert [candidate.name for candidate in list_candidates(search)] == [
        "alpha=0.0,learning_rate=0.001",
        "alpha=0.0,learning_rate=0.0001",
        "alpha=0.5,learning_rate=0.001",
        "alpha=0.5,learning_rate=0.0001",
    ]


def test_random_candidates_depend_on_seed_and_number_only():
    space = {"mix.alpha": {"uniform": [0.2, 0.8]}, "train.steps": {"integers": [5, 7]}}
    space |= {"train.learning_rate": {"loguniform": [1e-5, 1e-3]}, "mix.strategy": ["hybrid", "x-y"]}
    few, many = (list_candidates(search_of(space=space, algorithm="random", configurations=n)) for n in (10, 200))
    assert [candidate.name for candidate in few] == [candidate.name for candidate in many[:10]]
    values = [candidate.values for candidate in many]
    assert all(0.2 <= chosen["mix.alpha"] <= 0.8 and chosen["train.steps"] in (5, 6, 7) for chosen in values)
    assert {chosen["train.steps"] for chosen in values} == {5, 6, 7}
    below = np.mean([chosen["train.learning_rate"] < 1e-4 for chosen in values])
    assert abs(below - 0.5) < 5 * 0.5 / 200**0.5  # the middle of the powers of ten


def test_population_starts_evenly_spread():
    search = search_of(space={"mix.alpha": {"uniform": [0, 1]}}, algorithm="pbt", configurations=4, measure_every=20)
    assert [candidate.values["mix.alpha"] for candidate in list_candidates(search)] == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_sampled_algorithms_have_no_candidates_beforehand(algorithm: str):
    assert list_candidates(search_of(algorithm=algorithm)) == []
