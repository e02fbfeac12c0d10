"""Long passages cut in windows, of which the best one speaks for the passage (Dai and Callan 2019: MaxP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 4096  # texts that are embedded together


def windows_of(text: str, size: int) -> list[str]:
    """Overlapping pieces of a text, each of at most `size` characters and begun in the middle of the one before.

    Pieces begin and end at a blank where there is one within a quarter of the size; else they are cut where they are,
    as in texts without blanks.

    >>> windows_of("a b c d e f", 5)
    ['a b c', 'c d e', 'e f']
    >>> windows_of("abcdef", 4)
    ['abcd', 'cdef']
    >>> windows_of("short", 9)
    ['short']
    """
    quarter, half, three_quarters = size // 4, max(size // 2, 1), 3 * size // 4
    pieces = []
    start = 0
    while start + size < len(text):
        end = _last_blank(text, start + three_quarters + 1, start + size) or start + size
        pieces.append(text[start:end].strip())
        middle = _first_blank(text, start + half, start + three_quarters)
        middle = middle or _last_blank(text, start + quarter, start + half - 1)
        start = start + half if middle is None else middle + 1
    pieces.append(text[start:].strip())
    return [piece for piece in pieces if piece] or [text[:size]]


def _first_blank(text: str, first: int, last: int) -> int | None:
    """The place of a blank between two places, both included."""
    return next((place for place in range(first, last + 1) if text[place].isspace()), None)


def _last_blank(text: str, first: int, last: int) -> int | None:
    return next((place for place in range(last, first - 1, -1) if text[place].isspace()), None)


@dataclass(frozen=True, slots=True)
class WindowedPassages:
    """What of P passages is embedded: W windows, or the passages whole; equal texts once, so that they tie."""

    texts: list[str]  # that differ
    rows: np.ndarray  # (W,) int64, which of the texts each window is
    starts: np.ndarray | None  # (P,) int64, where the windows of each passage begin; None: each is whole

    @property
    def num_passages(self) -> int:
        return len(self.rows) if self.starts is None else len(self.starts)

    def chunks(self) -> list[list[str]]:
        """The texts, as many as are embedded together.

        The last bits of a vector depend on those beside it: the same few wherever they are embedded.
        """
        return [self.texts[first : first + CHUNK] for first in range(0, len(self.texts), CHUNK)]

    def of_passages(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        """`rows` and `starts` of some neighbouring passages."""
        if self.starts is None:
            return self.rows[first:last], None
        edges = np.append(self.starts, len(self.rows))
        return self.rows[edges[first] : edges[last]], self.starts[first:last] - edges[first]


def pieces_of(passages: Sequence[str], window_chars: int | None) -> WindowedPassages:
    """Passages cut in windows of at most `window_chars` characters; None: whole."""
    windows: list[str] = []
    starts = np.empty(len(passages), np.int64)
    for number, text in enumerate(passages):
        starts[number] = len(windows)
        windows += [text] if window_chars is None else windows_of(text, window_chars)
    number_of = {text: number for number, text in enumerate(dict.fromkeys(windows))}
    rows = np.fromiter((number_of[text] for text in windows), np.int64, len(windows))
    return WindowedPassages(list(number_of), rows, None if window_chars is None else starts)
