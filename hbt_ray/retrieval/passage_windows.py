"""Long passages in overlapping windows; a passage has the score of its best window (MaxP, Dai and Callan 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TEXTS_PER_CHUNK = 4096


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
class WindowedPassages:
    """The distinct texts to embed for P passages in W windows. Equal texts share one vector, so they tie exactly."""

    texts: list[str]  # distinct
    rows: np.ndarray  # (W,) int64, the index in `texts` of each window
    starts: np.ndarray | None  # (P,) int64, the index of each passage's first window; None: each has one window

    @property
    def num_passages(self) -> int:
        return len(self.rows) if self.starts is None else len(self.starts)

    def chunks(self) -> list[list[str]]:
        """Return the texts in the chunks in which they are embedded.

        The last bits of a vector depend on the other texts of its batch; fixed chunks give every process equal vectors.
        """
        return [self.texts[first : first + TEXTS_PER_CHUNK] for first in range(0, len(self.texts), TEXTS_PER_CHUNK)]

    def of_passages(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `rows` and `starts` of the passages from `first` to `last - 1`."""
        if self.starts is None:
            return self.rows[first:last], None
        offsets = np.append(self.starts, len(self.rows))
        return self.rows[offsets[first] : offsets[last]], self.starts[first:last] - offsets[first]


def window_passages(passages: Sequence[str], window_chars: int | None) -> WindowedPassages:
    """Split passages into windows of at most `window_chars` characters; None: one window each."""
    windows: list[str] = []
    starts = np.empty(len(passages), np.int64)
    for number, text in enumerate(passages):
        starts[number] = len(windows)
        windows += [text] if window_chars is None else split_into_windows(text, window_chars)
    number_of = {text: number for number, text in enumerate(dict.fromkeys(windows))}
    rows = np.fromiter((number_of[text] for text in windows), np.int64, len(windows))
    return WindowedPassages(list(number_of), rows, None if window_chars is None else starts)
