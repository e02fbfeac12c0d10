"""Long passages cut in windows, of which the best one speaks for the passage (Dai and Callan 2019: MaxP)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def windows_of(text: str, size: int) -> list[str]:
    """Overlapping pieces of a text, each of at most `size` characters and begun in the middle of the one before.

    Pieces begin and end at a blank where there is one near; texts without blanks are cut where they are.

    >>> windows_of("a b c d e f", 5)
    ['a b c', 'c d e', 'e f']
    >>> windows_of("short", 9)
    ['short']
    """
    pieces = []
    start = 0
    while True:
        end = start + size
        if end >= len(text):
            pieces.append(text[start:].strip())
            return [piece for piece in pieces if piece] or [text]
        blank = text.rfind(" ", start + size // 2, end + 1)
        end = blank if blank > start else end
        pieces.append(text[start:end].strip())
        middle = text.find(" ", start + size // 2, end)
        start = middle + 1 if middle > start else end


def cut_all(texts: Sequence[str], size: int) -> tuple[list[str], np.ndarray]:
    """The windows of all texts one after the other, and where those of each text begin: (P,) int64."""
    windows: list[str] = []
    starts = np.empty(len(texts), np.int64)
    for number, text in enumerate(texts):
        starts[number] = len(windows)
        windows += windows_of(text, size)
    return windows, starts
