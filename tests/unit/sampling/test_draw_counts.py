"""Draws are counted alike from any place, and in any order of calls."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.sampling import draw_counts
from hbt_ray.sampling.draw_counts import IndexedDraws


def of_four(places: np.ndarray) -> np.ndarray:
    return places**2 % 7 % 4


def counted(last: int) -> list[tuple[int, int]]:
    """Stream and earlier draws of it at each place, one after the other."""
    before: Counter[int] = Counter()
    found = []
    for place in range(last):
        number = int(of_four(np.array([place]))[0])
        found.append((number, before[number]))
        before[number] += 1
    return found


EXPECTED = counted(100)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """So that spans reach over several."""
    whole, draw_counts.BLOCK = draw_counts.BLOCK, 8
    yield
    draw_counts.BLOCK = whole


@given(st.lists(st.tuples(st.integers(0, 89), st.integers(1, 10)), min_size=1, max_size=5))
def test_streams_and_earlier_draws_are_those_of_counting_one_by_one(spans):
    own = IndexedDraws(of_four, 4)
    for first, length in spans:
        numbers, ordinals = own.between(first, first + length)
        assert list(zip(numbers.tolist(), ordinals.tolist(), strict=True)) == EXPECTED[first : first + length]
        assert own.at(first) == EXPECTED[first]
