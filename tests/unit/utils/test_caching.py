"""A cache of a method's results for each instance."""

from __future__ import annotations

import gc
import weakref

from hbt_ray.utils.caching import lru_cached_method


class Squares:
    """Count the calls that compute a square."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    @lru_cached_method(maxsize=2)
    def square(self, number: int) -> int:
        """Return number ** 2."""
        self.calls.append(number)
        return number**2


def test_cached_method_computes_each_of_the_last_results_once():
    squares = Squares()
    assert [squares.square(number) for number in (2, 3, 2, 4, 2, 3)] == [4, 9, 4, 16, 4, 9]
    assert squares.calls == [2, 3, 4, 3]  # 4 evicts 3, the least recently used


def test_cached_method_keeps_a_cache_for_each_instance():
    one, other = Squares(), Squares()
    assert one.square(2) == other.square(2) == 4
    assert one.calls == other.calls == [2]


def test_cached_method_does_not_keep_its_instance_in_memory():
    squares = Squares()
    squares.square(2)
    reference = weakref.ref(squares)
    del squares
    gc.collect()
    assert reference() is None
