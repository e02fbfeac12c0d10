"""The items of a stream's batches: consecutive parts of a sequence of epochs, each a seeded permutation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.sampling.streams import Stream
from hbt_ray.utils.caching import lru_cached_method
from hbt_ray.utils.counter_rng import stable_hash64, windowed_shuffle_at

BLOCK_ITEMS = 1024  # items of a stream computed at once: those of one small batch take nearly as long
CACHED_BLOCKS = 4096  # of all streams, 8 KiB each
CACHED_HEADS = 4


class EpochShuffler:
    """Compute the items of every batch of every stream. Streams are identified by their number.

    1. The epochs of a stream follow each other without a gap: positions are counted over all epochs, and batch k of the
       stream takes the positions [k * G, (k + 1) * G).
    2. Each epoch is a permutation of the stream's items, evaluated only at the positions that are needed.
    3. A batch may take the last items of one epoch and the first of the next. So that it has no item twice, the first G
       items of an epoch are reordered: items that are also in the batch's part of the previous epoch move to their end.
    4. A stream shorter than 2 G has too few items for step 3. Each of its epochs is one batch, the first G items of the
       permutation; the remaining items are skipped in this epoch.

    Args:
        streams: all streams.
        global_batch_pairs: G.
    """

    def __init__(self, streams: Sequence[Stream], global_batch_pairs: int) -> None:
        self.streams = streams
        self.global_batch_pairs = global_batch_pairs

    def epoch_and_offset(self, number: int, ordinal: int) -> tuple[int, int]:
        """Return the epoch in which the stream's batch `ordinal` begins, and its position in that epoch."""
        size = self.streams[number].num_items
        if size < 2 * self.global_batch_pairs:
            return ordinal, 0
        return divmod(ordinal * self.global_batch_pairs, size)

    def items(self, number: int, ordinal: int, start: int, stop: int) -> np.ndarray:
        """Return the items at positions [start, stop) of the stream's batch `ordinal`, (stop - start,), all distinct.

        The same positions of the next batches of the stream are computed and cached with them, up to BLOCK_ITEMS items
        and at most one epoch.
        """
        epoch_batches = self.streams[number].num_items // self.global_batch_pairs
        block_batches = max(1, min(BLOCK_ITEMS // max(stop - start, 1), epoch_batches if epoch_batches > 1 else 1))
        block, index = divmod(ordinal, block_batches)
        items: np.ndarray = self._items_of_batches(number, block * block_batches, block_batches, start, stop)[index]
        return items

    @lru_cached_method(CACHED_BLOCKS)
    def _items_of_batches(self, number: int, first: int, batches: int, start: int, stop: int) -> np.ndarray:
        """Return the items at positions [start, stop) of `batches` consecutive batches, (batches, stop - start)."""
        size = self.streams[number].num_items
        begins = [self.epoch_and_offset(number, ordinal) for ordinal in range(first, first + batches)]
        # 1. Positions over all epochs, (batches, stop - start)
        positions = np.array([epoch * size + offset for epoch, offset in begins])[:, None] + np.arange(start, stop)
        epochs = positions // size
        items = np.empty(positions.shape, np.int64)
        for epoch in range(int(epochs.min(initial=0)), int(epochs.max(initial=-1)) + 1):
            in_epoch = epochs == epoch
            items[in_epoch] = self._epoch_items(number, epoch, positions[in_epoch] - epoch * size)
        return items

    def _epoch_items(self, number: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the items at positions of an epoch, (N,) -> (N,)."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        # 2. Permutation
        items = _shuffled(stream, epoch, positions)
        # 3. Reordered head, if a batch spans this epoch and the previous one
        if stream.num_items >= 2 * pairs and (epoch * stream.num_items) % pairs:
            in_head = positions < pairs
            if in_head.any():
                items[in_head] = self._epoch_head_without_repeats(number, epoch)[positions[in_head]]
        return items

    @lru_cached_method(CACHED_HEADS)
    def _epoch_head_without_repeats(self, number: int, epoch: int) -> np.ndarray:
        """Return the first G items of an epoch, with those of the previous epoch's last batch moved to their end."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        from_previous = (epoch * stream.num_items) % pairs
        tail = _shuffled(stream, epoch - 1, np.arange(stream.num_items - from_previous, stream.num_items))
        head = _shuffled(stream, epoch, np.arange(pairs))
        repeated = np.isin(head, tail)
        return np.concatenate([head[~repeated], head[repeated]])


def _shuffled(stream: Stream, epoch: int, positions: np.ndarray) -> np.ndarray:
    """Return the items at positions of an epoch's permutation, before its head is reordered."""
    return windowed_shuffle_at(positions, stream.num_items, stable_hash64(stream.key, epoch))
