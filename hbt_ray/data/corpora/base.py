"""The interface of a corpus format: the shards of a corpus, and the module that lists and reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.types import CorpusRow, RejectedRow


@dataclass(frozen=True, slots=True)
class CorpusShard:
    """A part of a corpus that one task reads. It is pickled to any process that sees its location."""

    format: str  # a key of READERS
    source: str  # name of the corpus
    location: str  # the file, folder or data set
    language: str | None  # None: each row names its language in a column
    languages: tuple[str, ...] | None = None  # those to read if rows name theirs; None: all
    columns: Columns = field(default_factory=Columns)  # names of the columns, if rows have columns
    row_ids: str | None = None  # None: a column has the ids; otherwise an id is this text and the row's number
    may_lack_texts: bool = False  # a row without question and passage is passed over, not rejected
    other_files: tuple[str, ...] = ()  # that are read besides the location
    options: Mapping[str, Any] = field(default_factory=dict)  # of this format only, such as a range of rows

    @property
    def paths(self) -> tuple[str, ...]:
        """All that is read for the shard: its location and other files."""
        return (self.location, *self.other_files)


class CorpusReader(Protocol):
    """A format of corpora. The module of the format implements it with two functions.

    A format of large files may have a third, `split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]`:
    shards of parts of the file of a shard, of which the rows together are those of the shard, in order.
    """

    def list_shards(self, corpus: CorpusConfig) -> list[CorpusShard]:
        """List the shards of a corpus without reading its rows, always in the same order.

        Raises:
            CorpusError: there is nothing to read, or a language of `corpus.languages` is missing. If rows name their
                language, a missing one cannot be seen here.
        """

    def read_shard(self, shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
        """Yield every row of a shard in the order of its file, with a rejected row for each that cannot be used.

        A file that breaks off ends in a rejected row with the reason "unreadable file", not in an error.
        """
