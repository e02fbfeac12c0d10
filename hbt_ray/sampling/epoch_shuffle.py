"""Which items a batch takes from its stream: a row of epochs, each a seeded permutation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hbt_ray.sampling.streams import Stream
from hbt_ray.utils.counter_rng import stable_hash64, windowed_shuffle_at

ORDER_BLOCK = 1024  # pairs of a stream worked out at once: those of one small batch take nearly as long
ORDER_BLOCKS_KEPT = 4096  # of all streams, 8 KiB each


class EpochShuffler:
    """The items of every batch of every stream; streams go by their number."""

    def __init__(self, streams: Sequence[Stream], global_batch_pairs: int) -> None:
        self.streams = streams
        self.global_batch_pairs = global_batch_pairs
        self._head = lru_cache(maxsize=4)(self._separated_head)
        self._order_block = lru_cache(maxsize=ORDER_BLOCKS_KEPT)(self._items_of_batches)

    def begin(self, number: int, ordinal: int) -> tuple[int, int]:
        """The epoch, and the place in it, where the stream's batch `ordinal` begins.

        Epochs follow each other without a gap, so a batch may take the last rows of one and the first of the
        next. The next epoch's head is then rearranged so that the batch holds no item twice. A stream shorter
        than two batches has no room for that: each of its epochs is one batch, and passes the rest over.
        """
        size = self.streams[number].num_items
        if size < 2 * self.global_batch_pairs:
            return ordinal, 0
        return divmod(ordinal * self.global_batch_pairs, size)

    def items(self, number: int, ordinal: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) eligible items at these places of the stream's batch `ordinal`, no item twice.

        Those of some of the stream's following batches are worked out with them, of no more than an epoch.
        """
        epoch_batches = self.streams[number].num_items // self.global_batch_pairs
        together = max(1, min(ORDER_BLOCK // max(stop - start, 1), epoch_batches if epoch_batches > 1 else 1))
        block, place = divmod(ordinal, together)
        items: np.ndarray = self._order_block(number, block * together, together, start, stop)[place]
        return items

    def _items_of_batches(self, number: int, first: int, batches: int, start: int, stop: int) -> np.ndarray:
        """(batches, stop - start) items at these places of the stream's batches from `first` on."""
        size = self.streams[number].num_items
        begins = [self.begin(number, ordinal) for ordinal in range(first, first + batches)]
        # Places counted over all epochs.
        places = np.array([epoch * size + place for epoch, place in begins])[:, None] + np.arange(start, stop)
        epochs = places // size
        items = np.empty(places.shape, np.int64)
        for epoch in range(int(epochs.min(initial=0)), int(epochs.max(initial=-1)) + 1):
            mine = epochs == epoch
            items[mine] = self._epoch_items(number, epoch, places[mine] - epoch * size)
        return items

    def _epoch_items(self, number: int, epoch: int, places: np.ndarray) -> np.ndarray:
        """(N,) the items at these places of an epoch's order."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        items = _shuffled(stream, epoch, places)
        if stream.num_items >= 2 * pairs and (epoch * stream.num_items) % pairs:
            in_head = places < pairs
            if in_head.any():
                items[in_head] = self._head(number, epoch)[places[in_head]]
        return items

    def _separated_head(self, number: int, epoch: int) -> np.ndarray:
        """(G,) the first items of an epoch, those that the batch before still holds moved to their end."""
        stream, pairs = self.streams[number], self.global_batch_pairs
        held = (epoch * stream.num_items) % pairs
        tail = _shuffled(stream, epoch - 1, np.arange(stream.num_items - held, stream.num_items))
        head = _shuffled(stream, epoch, np.arange(pairs))
        repeated = np.isin(head, tail)
        return np.concatenate([head[~repeated], head[repeated]])


def _shuffled(stream: Stream, epoch: int, places: np.ndarray) -> np.ndarray:
    """Items at some places of an epoch's permutation, before heads are separated."""
    return windowed_shuffle_at(places, stream.num_items, stable_hash64(stream.key, epoch))
