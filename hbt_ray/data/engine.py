"""Large tables in parts, and the engine that applies functions to the parts: this process, or a cluster.

What is made of the tables does not depend on the engine. `cluster/prepare.py` has the one of Ray Data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

Result = TypeVar("Result")
Shared = TypeVar("Shared")


class RowTables(ABC):
    """A large table in parts, and how functions are applied to its parts."""

    @abstractmethod
    def map(self, function: Callable[[pa.Table], pa.Table]) -> RowTables:
        """Apply a function to each part."""

    @abstractmethod
    def map_groups(self, column: str, function: Callable[[pa.Table], pa.Table], groups: int) -> RowTables:
        """Apply a function to all rows with one value of a column, for each of about `groups` values."""

    @abstractmethod
    def compute(self) -> RowTables:
        """Return the parts, computed once however often they are used."""

    @abstractmethod
    def gather(self, function: Callable[[pa.Table], Result]) -> Result:
        """Apply a function to all rows at once."""

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the parts."""


class Engine(ABC):
    """Where tables are made and functions run."""

    @abstractmethod
    def read(self, shards: int, read: Callable[[Sequence[int]], Iterator[pa.Table]]) -> RowTables:
        """Read shards of corpora: call `read` with the numbers of some of them, until each was given once."""

    @abstractmethod
    def share(self, value: Shared) -> Callable[[], Shared]:
        """Return how a function that runs on the engine gets a large value, which each process receives once."""


class TablesHere(RowTables):
    """Tables in the memory of this process."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables = list(tables)

    def map(self, function: Callable[[pa.Table], pa.Table]) -> TablesHere:
        return TablesHere(map(function, self._tables))

    def map_groups(self, column: str, function: Callable[[pa.Table], pa.Table], groups: int) -> TablesHere:
        rows = pa.concat_tables(self._tables)
        values = sorted(pc.unique(rows.column(column)).to_pylist())
        return TablesHere(function(rows.filter(pc.equal(rows.column(column), value))) for value in values)

    def compute(self) -> TablesHere:
        return self

    def gather(self, function: Callable[[pa.Table], Result]) -> Result:
        return function(pa.concat_tables(self._tables))

    def count(self) -> int:
        return sum(table.num_rows for table in self._tables)

    def __iter__(self) -> Iterator[pa.Table]:
        return iter(self._tables)


class ThisProcess(Engine):
    """Runs everything in this process, which suits corpora that fit in memory several times."""

    def read(self, shards: int, read: Callable[[Sequence[int]], Iterator[pa.Table]]) -> TablesHere:
        return TablesHere(read(range(shards)))

    def share(self, value: Shared) -> Callable[[], Shared]:
        return lambda: value
