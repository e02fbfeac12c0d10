"""Strings in Arrow arrays or memory-mapped Arrow files, as a sequence: reading one makes one Python string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

_BATCH = 4096  # Python strings made at once by a pass through the column


class StringColumn(Sequence[str]):
    """N strings. Pickled, it has the paths of its files, and not what is in them.

    Args:
        parts: arrays of strings, or paths of files by `write_strings`; at least one.
        rows: (N,) which of the strings, in which order; None: all, in order.
    """

    def __init__(self, parts: Sequence[pa.Array | Path], rows: np.ndarray | None = None) -> None:
        self._parts, self._rows = parts, rows
        self._values = pa.chunked_array(
            [chunk for part in parts for chunk in (_mapped(part) if isinstance(part, Path) else [part])]
        )

    def __reduce__(self) -> tuple[object, ...]:
        return StringColumn, (self._parts, self._rows)

    def __len__(self) -> int:
        return len(self._values) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> StringColumn: ...

    def __getitem__(self, index: int | slice) -> str | StringColumn:
        rows = self._rows
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        value: str = self._values[index if rows is None else int(rows[index])].as_py()
        return value

    def select(self, indices: np.ndarray) -> StringColumn:
        """Return the strings at some indices, in their order."""
        part = object.__new__(StringColumn)
        part._parts, part._values = self._parts, self._values
        part._rows = indices if self._rows is None else self._rows[indices]
        return part

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _BATCH):
            if self._rows is None:
                yield from self._values.slice(first, _BATCH).to_pylist()
            else:
                yield from [self._values[row].as_py() for row in self._rows[first : first + _BATCH].tolist()]


def select_strings(strings: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """Return the strings at some indices; of a column, a column."""
    return strings.select(indices) if isinstance(strings, StringColumn) else [strings[one] for one in indices.tolist()]


def write_strings(file: Path, batches: Iterable[pa.Array]) -> None:
    """Write arrays of strings to a file, one after the other."""
    schema = pa.schema({"text": pa.large_string()})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for values in batches:
            writer.write_batch(pa.record_batch([values], schema))


def _mapped(file: Path) -> list[pa.Array]:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()["text"].chunks
