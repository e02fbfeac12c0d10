"""A sum in fixed point does not depend on the order of its addends."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.training.fixed_point import FRACTION_BITS, FixedPointSum

SHAPE = torch.Size((2, 3))
NUMBERS = st.floats(-100, 100, width=32)


def total(addends, limit=None):
    found = FixedPointSum([SHAPE], torch.device("cpu"), limit or len(addends))
    for addend in addends:
        found.add(0, torch.tensor(addend).view(SHAPE))
    return found.finish([torch.zeros(SHAPE)])[0]


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_sum_does_not_depend_on_the_order(addends, drawn: random.Random):
    shuffled = list(addends)
    drawn.shuffle(shuffled)
    assert torch.equal(total(addends), total(shuffled))


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=8))
def test_error_is_that_of_rounding_each_addend(addends):
    exact = torch.tensor(addends, dtype=torch.float64).sum(0).view(SHAPE)
    bound = len(addends) * 2.0 ** -(FRACTION_BITS + 1) + 2.0**-24 * exact.abs()  # and of the result to float32
    assert ((total(addends).double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan, 2.0**18, -(2.0**18)])
def test_number_that_does_not_fit_makes_the_sum_nan(number):
    ones = [1.0] * 6
    assert total([ones, [number, *ones[1:]]], limit=2).isnan().all()
    assert torch.equal(
        total([ones, [2.0**18 - 1, *ones[1:]]], limit=2), torch.tensor([2.0**18, 2, 2, 2, 2, 2]).view(SHAPE)
    )


def test_tensors_have_sums_of_their_type():
    found = FixedPointSum([SHAPE, torch.Size((1,))], torch.device("cpu"), 2)
    found.add(0, torch.full(SHAPE, 0.5))
    found.add(1, torch.tensor([0.25]))
    found.add(0, torch.full(SHAPE, 0.25))
    one, other = found.finish([torch.zeros(SHAPE), torch.zeros(1, dtype=torch.float64)])
    assert torch.equal(one, torch.full(SHAPE, 0.75))
    assert (other.item(), other.dtype) == (0.25, torch.float64)
