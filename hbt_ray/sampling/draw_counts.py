"""An endless sequence of draws among streams, with random access to each draw and its ordinal within its stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hbt_ray.utils.caching import lru_cached_method

BLOCK = 8192  # draws computed at once
CACHED_BLOCKS = 64


class IndexedDraws:
    """Return the stream of any draw, and the number of earlier draws of the same stream (its ordinal).

    The stream of a draw is a function of its index, so it needs no other draw. The ordinal does: it is a count over
    all earlier draws. To count each draw only once:

    1. Divide the draws into blocks of BLOCK.
    2. Keep the counts of each stream before each block, (streams,) int64: they are extended as later blocks are used.
    3. Add the counts within the block.

    The first access to draw n counts all earlier draws, about 0.1 s per million; later ones compute one block at most.

    Args:
        draw: function from (N,) indices to the (N,) numbers of the streams drawn there.
        num_streams: number of streams.
    """

    def __init__(self, draw: Callable[[np.ndarray], np.ndarray], num_streams: int) -> None:
        self._draw = draw
        self._counts_before = [np.zeros(num_streams, np.int64)]  # of each stream, before each block

    def at(self, index: int) -> tuple[int, int]:
        """Return the stream of a draw and its ordinal."""
        streams, ordinals = self._block(index // BLOCK)
        return int(streams[index % BLOCK]), int(ordinals[index % BLOCK])

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the streams and ordinals of the draws [first, last), (last - first,) each."""
        blocks = range(first // BLOCK, -(-last // BLOCK))
        streams, ordinals = (np.concatenate(arrays) for arrays in zip(*map(self._block, blocks), strict=True))
        span = slice(first - blocks.start * BLOCK, last - blocks.start * BLOCK)
        return streams[span], ordinals[span]

    @lru_cached_method(CACHED_BLOCKS)
    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the streams and ordinals of a block's draws, (BLOCK,) each."""
        num_streams = len(self._counts_before[0])
        # 2. Counts before the block
        while len(self._counts_before) <= block:
            earlier = self._draw(_indices(len(self._counts_before) - 1))
            self._counts_before.append(self._counts_before[-1] + np.bincount(earlier, minlength=num_streams))
        # 3. Counts within the block: positions in a stable sort by stream, less the start of each stream
        streams = self._draw(_indices(block))
        order = np.argsort(streams, kind="stable")
        counts = np.bincount(streams, minlength=num_streams)
        within = np.empty(BLOCK, np.int64)
        within[order] = np.arange(BLOCK) - np.repeat(np.cumsum(counts) - counts, counts)
        return streams, self._counts_before[block][streams] + within


def _indices(block: int) -> np.ndarray:
    return np.arange(block * BLOCK, (block + 1) * BLOCK)
