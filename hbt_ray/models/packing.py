"""The layout of a packed row: sequences one after the other, and groups of nearly equal length for attention.

There are few different shapes: oneDNN generates a kernel for each new shape of a matrix product, which takes longer
than many of the products. So groups have few lengths, and the number of sequences in a group is a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

MIN_STEP = 16  # tokens between the lengths of groups, up to 256; an eighth to a sixteenth of longer ones


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of a (tokens * heads, d) matrix that belong to the sequences of a group, (N * heads * L,) each."""

    read: Tensor  # after a sequence's end, its first row
    write: Tensor  # after a sequence's end, a row that is discarded


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """Sequences of nearly equal length.

    Legend: N sequences, L tokens of the longest.
    """

    sequences: int  # N
    longest: int  # L
    heads: int
    key_heads: int
    queries: HeadRows
    keys: HeadRows  # of keys and values
    ended: Tensor | None  # (N, L) bool, or None if all have the same length


class Packing:
    """The layout of a packed row: which rows belong to which sequence.

    Args:
        lengths: (N,) tokens of each sequence.
        device: of the index tensors.
        fill: tokens that fill the row. They are one more sequence, whose result is discarded.

    Attributes:
        lengths: (N or N + 1,) tokens of each sequence, that of the filling tokens included.
        longest: tokens of the longest of them.
        example: first token of the longest sequence that does not fill the row, and its length.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device, fill: int = 0) -> None:
        self.lengths = np.append(lengths, fill) if fill else lengths
        self.device = device
        self.tokens = int(self.lengths.sum())
        self.longest = int(self.lengths.max())
        self.example = int(lengths[: lengths.argmax()].sum()), int(lengths.max())
        self._groups: dict[tuple[int, int], list[SequenceGroup]] = {}

    def groups(self, heads: int, key_heads: int) -> list[SequenceGroup]:
        """Return groups of all sequences, the longest first.

        Args:
            heads: of queries.
            key_heads: of keys and values.
        """
        if (heads, key_heads) not in self._groups:
            starts = np.cumsum(self.lengths) - self.lengths
            self._groups[heads, key_heads] = [
                self._group(starts[members], self.lengths[members], longest, heads, key_heads)
                for members, longest in _groups_of_similar_length(self.lengths)
            ]
        return self._groups[heads, key_heads]

    @cached_property
    def boundaries(self) -> Tensor:
        """(N + 1,) int32 first token of each sequence, and the number of tokens."""
        return torch.from_numpy(np.cumsum(np.append(0, self.lengths)).astype(np.int32)).to(self.device)

    def _group(
        self, starts: np.ndarray, lengths: np.ndarray, longest: int, heads: int, key_heads: int
    ) -> SequenceGroup:
        positions = starts[:, None] + np.arange(longest)  # (N, L)
        ended = np.arange(longest) >= lengths[:, None]

        def rows(of_tokens: np.ndarray, heads: int) -> Tensor:
            of_heads = of_tokens[:, None, :] * heads + np.arange(heads)[:, None]  # (N, heads, L)
            return torch.from_numpy(of_heads.reshape(-1)).to(self.device)

        def read_and_write(heads: int) -> HeadRows:
            read = rows(np.where(ended, starts[:, None], positions), heads)
            return HeadRows(read, rows(np.where(ended, self.tokens, positions), heads) if ended.any() else read)

        queries = read_and_write(heads)
        keys = queries if key_heads == heads else read_and_write(key_heads)
        mask = torch.from_numpy(ended).to(self.device) if ended.any() else None
        return SequenceGroup(len(lengths), longest, heads, key_heads, queries, keys, mask)


def _groups_of_similar_length(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the indices of each group's sequences and their maximum length, the longest first.

    1. Round lengths up to a multiple of a step that grows with the length.
    2. Cut the sequences of equal rounded length into groups whose sizes are powers of two.
    """
    # 1. Round up
    steps = np.maximum(MIN_STEP, 2 ** np.floor(np.log2(lengths)).astype(np.int64) // 8)
    rounded = -(-lengths // steps) * steps
    # 2. Cut
    for longest in np.unique(rounded)[::-1].tolist():
        remaining = np.flatnonzero(rounded == longest)
        while len(remaining):
            size = 1 << (len(remaining).bit_length() - 1)
            yield remaining[:size], longest
            remaining = remaining[size:]
