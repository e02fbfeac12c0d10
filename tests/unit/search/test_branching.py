"""The segments of a training with branches, and their mixtures."""

from __future__ import annotations

from typing import Any

import numpy as np

from hbt_ray.search.algorithms import ALGORITHMS
from hbt_ray.search.branching import MOVE, Segment, branch_quantiles, segments, values_at
from hbt_ray.search.config import SearchConfig
from tests.unit.search.searches import search_of

SPACE: dict[str, Any] = {
    "mix.alpha": {"uniform": [0.2, 0.8]},
    "mix.language_weights": {"simplex": ["de", "en", "fr"]},
}


def branches(**settings: Any) -> SearchConfig:
    return search_of(**{"space": SPACE, "algorithm": "branch", "measure_every": 100, "configurations": 4, **settings})


def test_segments_are_branches_and_the_best_one_further():
    assert segments(branches(branch_every=250)) == [
        Segment(0, 100, 4),
        Segment(100, 250, 1),
        Segment(250, 350, 4),
        Segment(350, 500, 1),
        Segment(500, 600, 4),
    ]
    assert ALGORITHMS["branch"].num_trials(branches(branch_every=250)) == 3 * 4 + 2
    assert segments(branches(measure_every=400)) == [Segment(0, 400, 4), Segment(400, 600, 4)]


def test_first_branch_has_the_middle_of_the_space_or_its_parents_mixture():
    search = branches()
    middle = values_at(search, branch_quantiles(search, 0, 0, None))
    assert middle == {"mix.alpha": 0.5, "mix.language_weights": dict.fromkeys(("de", "en", "fr"), 0.3333)}
    parent = branch_quantiles(search, 0, 1, None)
    assert branch_quantiles(search, 1, 0, parent) == parent


def test_moves_are_normal_in_the_logits_and_depend_on_the_seed_and_number():
    search, parent = branches(), [0.5, 0.9, 0.1, 0.5]
    moved = np.array([branch_quantiles(search, number, 1, parent) for number in range(400)])
    logits = np.log(moved / (1 - moved)) - np.log(np.array(parent) / (1 - np.array(parent)))
    assert np.abs(logits.mean(axis=0)).max() < 5 * MOVE / 20
    assert np.abs(logits.std(axis=0) - MOVE).max() < 5 * MOVE / 800**0.5
    assert branch_quantiles(search, 7, 1, parent) == moved[7].tolist()
    assert branch_quantiles(branches(seed=1), 7, 1, parent) != moved[7].tolist()
