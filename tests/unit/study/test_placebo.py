"""A method compared with itself, by halves of its seeds."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.errors import UserError
from hbt_ray.evaluation.per_query import PerQueryContributions
from hbt_ray.study.placebo import placebo


def runs(effects: np.ndarray, questions: int = 24) -> list[PerQueryContributions]:
    """Return the metric of runs that differ from each other by an effect on all questions, and by little on each."""
    keys = tuple((f"q{n:02}", "en", "en") for n in range(questions))
    noise = np.random.default_rng(0).normal(0, 0.3, (len(effects), questions))
    terms = (0.5 + effects[:, None] + noise) / questions
    return [PerQueryContributions(keys, tuple(key[0] for key in keys), of_run) for of_run in terms]


def test_seeds_that_differ_are_different_methods_by_questions_only():
    found = placebo(runs(np.array([2.0, 5.5, 0.0, 3.0, 1.0, 4.0])))
    assert found is not None
    assert found.splits == 10
    assert found.by_models >= 8
    assert found.by_methods <= 2


@pytest.mark.parametrize(("seeds", "splits"), [(7, 10), (8, 35)])
def test_every_half_that_has_the_first_seed_is_compared(seeds, splits):
    found = placebo(runs(np.arange(float(seeds))))
    assert found is not None
    assert found.splits == splits


def test_few_seeds_equal_seeds_and_one_question_have_no_placebo():
    assert placebo(runs(np.arange(5.0))) is None
    assert placebo(runs(np.zeros(6))[:1] * 6) is None
    assert placebo(runs(np.arange(6.0), questions=1)) is None
    with pytest.raises(UserError, match="same queries"):
        placebo([*runs(np.zeros(5)), *runs(np.zeros(1), questions=3)])
