"""Which items a batch takes from its stream: a row of epochs, each a seeded permutation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hbt_ray.permutation import key_of, permute
from hbt_ray.plan.streams import Stream

WINDOW_ITEMS = 65536  # items are permuted inside windows of this many neighbours, so that reading stays local
ORDER_BLOCK = 1024  # pairs of a stream worked out at once: those of one small batch take nearly as long
ORDER_BLOCKS_KEPT = 4096  # of all streams, 8 KiB each


class Epochs:
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
    """Items at some places of an epoch's permutation, before heads are separated.

    The stream is turned by a random amount and cut in windows of neighbours; windows come in random order
    (the short one, if any, at a random place among them), and items in random order inside their window.
    """
    size = stream.num_items
    key = key_of(stream.key, epoch)
    num_full, short = divmod(size, WINDOW_ITEMS)
    short_start = int(key_of(key, "short") % (num_full + 1)) * WINDOW_ITEMS
    in_short = (places >= short_start) & (places < short_start + short)
    after_short = places >= short_start + short
    full_places = places - np.where(after_short, short, 0)
    items = np.empty(len(places), np.int64)
    windows = np.full(len(places), num_full)
    if num_full:
        turns, which = np.unique(full_places[~in_short] // WINDOW_ITEMS, return_inverse=True)
        windows[~in_short] = permute(turns, num_full, key_of(key, "windows"))[which]
    within = np.where(in_short, places - short_start, full_places % WINDOW_ITEMS)
    for window in np.unique(windows):
        mine = windows == window
        window_size = short if window == num_full else WINDOW_ITEMS
        items[mine] = window * WINDOW_ITEMS + permute(within[mine], window_size, key_of(key, "window", window))
    return (items + key_of(key, "turn") % size) % size
