"""Long passages in overlapping windows; a passage has the score of its best window (MaxP, Dai and Callan 2019)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hbt_ray.utils.string_column import select_strings

TEXTS_PER_CHUNK = 4096
WINDOW_RULE = 1  # version of `split_into_windows`, raised with every change of what it returns
_DIGEST_BYTES = 16


def split_into_windows(text: str, size: int) -> list[str]:
    """Split a text into windows of at most `size` characters, each starting about half a window after the previous.

    Windows begin and end at white space where there is some within a quarter of the size; otherwise, as in scripts
    without blanks, they are cut between characters.

    >>> split_into_windows("a b c d e f", 5)
    ['a b c', 'c d e', 'e f']
    >>> split_into_windows("abcdef", 4)
    ['abcd', 'cdef']
    >>> split_into_windows("short", 9)
    ['short']
    """
    quarter, half, three_quarters = size // 4, max(size // 2, 1), 3 * size // 4
    windows = []
    start = 0
    while start + size < len(text):
        end = _last_blank(text, start + three_quarters + 1, start + size) or start + size
        windows.append(text[start:end].strip())
        middle = _first_blank(text, start + half, start + three_quarters)
        middle = middle or _last_blank(text, start + quarter, start + half - 1)
        start = start + half if middle is None else middle + 1
    windows.append(text[start:].strip())
    return [window for window in windows if window] or [text[:size]]


def _first_blank(text: str, first: int, last: int) -> int | None:
    """Return the first position of white space from `first` to `last`, both included."""
    return next((position for position in range(first, last + 1) if text[position].isspace()), None)


def _last_blank(text: str, first: int, last: int) -> int | None:
    """Return the last position of white space from `first` to `last`, both included."""
    return next((position for position in range(last, first - 1, -1) if text[position].isspace()), None)


@dataclass(frozen=True, slots=True)
class TextChunk:
    """Texts that are embedded together: N passages, or a window of each; those on disk are read by `texts`."""

    passages: Sequence[str]  # (N,)
    windows: np.ndarray | None = None  # (N,) the number of the window in its passage
    window_chars: int | None = None

    def texts(self) -> list[str]:
        """Return the N texts."""
        if self.windows is None or self.window_chars is None:
            return list(self.passages)
        cut = functools.lru_cache(1)(functools.partial(split_into_windows, size=self.window_chars))
        return [cut(text)[window] for text, window in zip(self.passages, self.windows.tolist(), strict=True)]


@dataclass(frozen=True)
class WindowedPassages:
    """The distinct texts to embed for P passages in W windows. Equal texts share one vector, so they tie exactly.

    Texts are cut from the passages when they are read, so passages on disk stay there.
    """

    passages: Sequence[str]  # (P,)
    rows: np.ndarray  # (W,) int64, the number of each window's text; texts are numbered as they first occur
    starts: np.ndarray | None  # (P,) int64, the index of each passage's first window; None: each has one window
    window_chars: int | None = None

    @property
    def num_passages(self) -> int:
        return len(self.rows) if self.starts is None else len(self.starts)

    @functools.cached_property
    def first_windows(self) -> np.ndarray:
        """(texts,) int64, the window where each text occurs first."""
        return np.flatnonzero(np.diff(np.maximum.accumulate(self.rows), prepend=-1))

    @property
    def num_chunks(self) -> int:
        return -(-len(self.first_windows) // TEXTS_PER_CHUNK)

    def chunk(self, number: int) -> TextChunk:
        """Return the texts that are embedded together.

        The last bits of a vector depend on the other texts of its batch; fixed chunks give every process equal vectors.
        """
        windows = self.first_windows[number * TEXTS_PER_CHUNK : (number + 1) * TEXTS_PER_CHUNK]
        if self.starts is None:
            return TextChunk(select_strings(self.passages, windows))
        passages = np.searchsorted(self.starts, windows, "right") - 1
        chosen = select_strings(self.passages, passages)
        return TextChunk(chosen, windows - self.starts[passages], self.window_chars)

    def chunks(self) -> list[list[str]]:
        """Return all texts in chunks."""
        return [self.chunk(number).texts() for number in range(self.num_chunks)]

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return list(chain.from_iterable(self.chunks()))

    def of_passages(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `rows` and `starts` of the passages from `first` to `last - 1`."""
        if self.starts is None:
            return self.rows[first:last], None
        offsets = np.append(self.starts, len(self.rows))
        return self.rows[offsets[first] : offsets[last]], self.starts[first:last] - offsets[first]


def window_passages(
    passages: Sequence[str], window_chars: int | None, digests: Iterable[WindowDigests] | None = None
) -> WindowedPassages:
    """Split passages into windows of at most `window_chars` characters; None: one window each.

    Args:
        passages: (P,).
        window_chars: None: one window each.
        digests: of the passages, part by part, where other processes have computed them; None: compute them here.
    """
    parts = list(digests or [digest_windows(passages, window_chars)])
    joined = b"".join(part.digests for part in parts)
    windows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(_DIGEST_BYTES), len(joined) // _DIGEST_BYTES, [None, pa.py_buffer(joined)]
    )
    rows = windows.dictionary_encode().indices.to_numpy().astype(np.int64)
    ends = np.cumsum(np.concatenate([part.counts for part in parts]))
    starts = None if window_chars is None else np.concatenate([[0], ends])[: len(ends)].astype(np.int64)
    return WindowedPassages(passages, rows, starts, window_chars)


def window_settings(window_chars: int | None) -> tuple[int, int] | None:
    """Return what the windows of a text depend on, by which the folder of their vectors is named."""
    return None if window_chars is None else (window_chars, WINDOW_RULE)


class WindowDigests(NamedTuple):
    """Digests by which equal windows are found, without their texts."""

    digests: bytes  # of W windows, 16 bytes each: two of 10 million texts are confused with a probability of 1e-25
    counts: np.ndarray  # (P,) int64, the windows of each passage


def digest_windows(passages: Sequence[str], window_chars: int | None) -> WindowDigests:
    """Return the digests of the windows of some passages."""
    digests = bytearray()
    counts = np.ones(len(passages), np.int64)
    for number, text in enumerate(passages):
        windows = [text] if window_chars is None else split_into_windows(text, window_chars)
        counts[number] = len(windows)
        for window in windows:
            digests += hashlib.blake2b(window.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return WindowDigests(bytes(digests), counts)
