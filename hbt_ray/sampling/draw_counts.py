"""Draws among streams, addressed by place: which one is drawn there, and how often it was drawn before."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

BLOCK = 8192  # draws worked out at once
BLOCKS_KEPT = 64


class IndexedDraws:
    """An endless row of draws.

    Args:
        draw: (N,) places -> (N,) numbers of the streams that are drawn there.
    """

    def __init__(self, draw: Callable[[np.ndarray], np.ndarray], num_streams: int) -> None:
        self._draw = draw
        self._before = [np.zeros(num_streams, np.int64)]  # draws of each stream before each block of draws
        self._block = lru_cache(maxsize=BLOCKS_KEPT)(self._worked_out)

    def at(self, place: int) -> tuple[int, int]:
        """The stream at a place, and how many earlier draws were of the same one."""
        numbers, ordinals = self._block(place // BLOCK)
        return int(numbers[place % BLOCK]), int(ordinals[place % BLOCK])

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of places [first, last): (N,) each."""
        blocks = range(first // BLOCK, -(-last // BLOCK))
        numbers, ordinals = (np.concatenate(of) for of in zip(*map(self._block, blocks), strict=True))
        own = slice(first - blocks.start * BLOCK, last - blocks.start * BLOCK)
        return numbers[own], ordinals[own]

    def _worked_out(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        num_streams = len(self._before[0])
        while len(self._before) <= block:
            earlier = self._draw(_places(len(self._before) - 1))
            self._before.append(self._before[-1] + np.bincount(earlier, minlength=num_streams))
        numbers = self._draw(_places(block))
        order = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers, minlength=num_streams)
        within = np.empty(BLOCK, np.int64)
        within[order] = np.arange(BLOCK) - np.repeat(np.cumsum(counts) - counts, counts)
        return numbers, self._before[block][numbers] + within


def _places(block: int) -> np.ndarray:
    return np.arange(block * BLOCK, (block + 1) * BLOCK)
