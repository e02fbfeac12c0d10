"""Claims about methods, and the number of seeds that they need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.config import build
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.method_difference import MethodDifference, equivalence, non_inferiority
from hbt_ray.study.claims import Claim, ClaimResult
from hbt_ray.study.config import StudyConfig
from tests.unit.study.example_study import SETTINGS

BETTER = {"method": "hybrid", "versus": "x-y", "metric": "tiny/multi/map"}


def claim(**settings: object) -> Claim:
    return build(Claim, BETTER | settings)


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.8, 15), (0.5, 34)])
def test_number_of_seeds_is_that_of_tables_of_the_paired_t_test(effect, seeds):
    """Cohen's d, 5% two-sided, power 80%: as in G*Power."""
    assert claim(margin=effect).seeds_needed(1.0) == seeds
    assert claim(margin=1000 * effect).seeds_needed(1000.0) == seeds


def test_power_is_the_frequency_of_simulated_studies():
    rng = np.random.default_rng(0)
    by_seed = rng.normal(1.5, 1.0, (4000, 5))
    t = by_seed.mean(axis=1) / (by_seed.std(axis=1, ddof=1) / 5**0.5)
    assert claim(margin=1.5).power(1.0, 5) == pytest.approx(np.mean(t > 2.776), abs=0.025)
    by_seed -= 1.5
    error = by_seed.std(axis=1, ddof=1) / 5**0.5
    upper, lower = ((3.0 + sign * by_seed.mean(axis=1)) / error > 2.132 for sign in (1, -1))
    assert claim(kind="non-inferior", margin=3.0).power(1.0, 5) == pytest.approx(np.mean(upper), abs=0.025)
    found = claim(kind="equivalent", margin=3.0).power(1.0, 5)
    assert found is not None
    assert found <= np.mean(upper & lower) + 0.025


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(2, 20))
def test_more_seeds_and_a_wider_margin_have_more_power(margin, deviation, seeds):
    for kind in ("superior", "non-inferior", "equivalent"):
        power = claim(kind=kind, margin=margin).power(deviation, seeds)
        assert power is not None
        assert 0 <= power <= 1
        assert claim(kind=kind, margin=margin).power(deviation, seeds + 1) >= power - 1e-6  # type: ignore[operator]
        assert claim(kind=kind, margin=2 * margin).power(deviation, seeds) >= power - 1e-6  # type: ignore[operator]


def test_too_many_seeds_and_an_unknown_margin_have_no_number():
    assert claim(margin=0.001).seeds_needed(1.0) is None
    assert claim().power(1.0, 5) is None
    assert claim().seeds_needed(1.0) is None


def test_superiority_is_two_sided_and_needs_the_right_direction():
    better = MethodDifference((0.1, 0.12, 0.11), 0.00003, 0.0, 20)
    assert claim().p_value(better, higher_is_better=True) == pytest.approx(better.p_value)
    assert claim().p_value(better, higher_is_better=False) == 1
    non_inferior, equivalent = (claim(kind=kind, margin=0.2) for kind in ("non-inferior", "equivalent"))
    assert non_inferior.p_value(better, higher_is_better=False) == non_inferiority(better, 0.2, higher_is_better=False)
    assert equivalent.p_value(better, higher_is_better=True) == equivalence(better, 0.2)
    assert ClaimResult(claim(), better, 0.04).is_shown
    assert ClaimResult(claim(), None, None).is_shown is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "equivalent"}, "the claim that hybrid is equivalent to x-y needs a margin"),
        ({"versus": "hybrid"}, "a claim compares hybrid with itself"),
        ({"method": "other"}, "a claim names 'other', which is no method; there are untrained, hybrid, x-y"),
        ({"margin": 0}, "margin"),
        ({"kind": "best"}, "kind"),
    ],
)
def test_wrong_claims_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(StudyConfig, SETTINGS | {"claims": [BETTER | settings]})
