"""The candidates of each algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hbt_ray.config import RunConfig
from hbt_ray.search.algorithms import list_candidates
from tests.unit.search.searches import search_of

RANDOM: dict[str, Any] = {"algorithm": "random", "configurations": 400}


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


def test_random_shares_have_dirichlets_mean_and_variance():
    space = {"mix.language_weights": {"simplex": ["de", "en", "fr"]}, "mix.alpha": {"uniform": [0, 1]}}
    drawn = [c.values["mix.language_weights"] for c in list_candidates(search_of(space=space, **RANDOM))]
    assert all(sum(shares.values()) == pytest.approx(1, abs=4e-4) for shares in drawn)
    shares = np.array([shares["de"] for shares in drawn])
    assert shares.mean() == pytest.approx(1 / 3, abs=5 * (1 / 18 / 400) ** 0.5)
    assert shares.var() == pytest.approx(1 / 18, rel=0.3)  # 1/3 * 2/3 / (3 + 1)
    space["mix.language_weights"]["concentration"] = 32
    drawn = [c.values["mix.language_weights"] for c in list_candidates(search_of(space=space, **RANDOM))]
    assert np.var([shares["de"] for shares in drawn]) == pytest.approx(2 / 9 / 97, rel=0.3)


def test_candidate_of_a_simplex_is_a_run_of_readable_weights():
    space = {"mix.source_weights": {"simplex": ["a", "b"]}}
    candidate = list_candidates(search_of(space=space, **RANDOM))[0]
    weights = candidate.values["mix.source_weights"]
    assert all(value == round(value, 4) for value in weights.values())
    assert candidate.config(RunConfig(), seed=0).mix.source_weights == weights
    assert candidate.name == f"source_weights=a_{weights['a']:g}_b_{weights['b']:g}"


@pytest.mark.parametrize("algorithm", ["tpe", "branch"])
def test_adaptive_algorithms_have_no_candidates_beforehand(algorithm: str):
    assert list_candidates(search_of(algorithm=algorithm, measure_every=10)) == []
