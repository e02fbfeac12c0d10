"""Parquet: a folder of `<language>.parquet`, or files whose rows name their language. Read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import list_file_parts
from hbt_ray.data.corpora.record_parsing import present_columns, records_of_table, reject, row_of_record
from hbt_ray.data.types import CorpusRow, RejectedRow

_ROWS_PER_PART = 65_536  # a part ends with the row group that reaches this
_ROWS_PER_BATCH = 1024

# What Arrow raises on a damaged file; a footer that is cut off is an ArrowInvalid, a page an OSError.
_DAMAGE = (OSError, pa.ArrowException, ValueError, MemoryError)


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """Parts by file and range of row groups, sorted.

    Raises:
        CorpusError: there is none, or a language is missing.
    """
    files = list_file_parts(corpus, (".parquet",), {"columns": corpus.columns.model_dump()})
    return [part for file in files for part in _split(file)]


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """One row or reject for each row of the part, numbered from 1 in its file; a last one where it breaks off."""
    path = Path(part.location)
    number = int(part.options["first_row"])
    try:
        with pq.ParquetFile(path) as file:
            columns = present_columns(part.options["columns"], file.schema_arrow.names)
            groups = part.options["row_groups"]
            for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=groups and range(*groups), columns=columns):
                for record in records_of_table(batch):
                    number += 1
                    row = row_of_record(record, part, f"{path.name}:{number}")
                    if row is not None:
                        yield row
    except _DAMAGE as error:
        yield reject(part.source, f"{path.name}:{number + 1}", "unreadable file", error)


def _split(file: CorpusShard) -> Iterator[CorpusShard]:
    """The file's parts; a single one for a file that cannot be opened, so that reading it says so."""
    try:
        metadata = pq.read_metadata(file.location)
    except _DAMAGE:
        yield replace(file, options={**file.options, "row_groups": None, "first_row": 0})
        return
    begin = first_row = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _ROWS_PER_PART or group == metadata.num_row_groups - 1:
            yield replace(file, options={**file.options, "row_groups": (begin, group + 1), "first_row": first_row})
            begin, first_row, rows = group + 1, first_row + rows, 0
