"""Random access to draws and their ordinals."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.sampling import draw_counts
from hbt_ray.sampling.draw_counts import IndexedDraws


def draw_of_four(indices: np.ndarray) -> np.ndarray:
    return indices**2 % 7 % 4


def counted_one_by_one(last: int) -> list[tuple[int, int]]:
    """Return the stream and ordinal of each draw, counted one after the other."""
    before: Counter[int] = Counter()
    found = []
    for index in range(last):
        number = int(draw_of_four(np.array([index]))[0])
        found.append((number, before[number]))
        before[number] += 1
    return found


EXPECTED = counted_one_by_one(100)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Make blocks so small that spans extend over several."""
    whole, draw_counts.BLOCK = draw_counts.BLOCK, 8
    yield
    draw_counts.BLOCK = whole


@given(st.lists(st.tuples(st.integers(0, 89), st.integers(1, 10)), min_size=1, max_size=5))
def test_draws_have_the_ordinals_of_counting_one_by_one(spans):
    draws = IndexedDraws(draw_of_four, 4)
    for first, length in spans:
        numbers, ordinals = draws.between(first, first + length)
        assert list(zip(numbers.tolist(), ordinals.tolist(), strict=True)) == EXPECTED[first : first + length]
        assert draws.at(first) == EXPECTED[first]
