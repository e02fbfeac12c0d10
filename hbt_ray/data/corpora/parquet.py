"""Parquet: a folder of `<language>.parquet`, or files whose rows name their language. Read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import list_record_shards
from hbt_ray.data.corpora.record_parsing import parse_record, present_columns, records_of_table
from hbt_ray.data.text_files import UNREADABLE_FILE, rejected_row
from hbt_ray.data.types import CorpusRow, RejectedRow

_ROWS_PER_SHARD = 65_536  # a shard ends with the row group that reaches this number
_ROWS_PER_BATCH = 1024

# The errors of Arrow for a damaged file: a truncated footer is an ArrowInvalid, a damaged page an OSError.
_DAMAGE_ERRORS = (OSError, pa.ArrowException, ValueError, MemoryError)


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List the shards by file and range of row groups.

    Raises:
        CorpusError: there is no file, or a language is missing.
    """
    return [shard for file in list_record_shards(corpus, (".parquet",)) for shard in _split_file(file)]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each row of the shard, numbered from 1 in its file."""
    path = Path(shard.location)
    number = int(shard.options["first_row"])
    try:
        with pq.ParquetFile(path) as file:
            columns = present_columns(shard.columns, file.schema_arrow.names)
            groups = shard.options["row_groups"]
            for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=groups and range(*groups), columns=columns):
                for record in records_of_table(batch):
                    number += 1
                    row = parse_record(record, shard, f"{path.name}:{number}")
                    if row is not None:
                        yield row
    except _DAMAGE_ERRORS as error:
        yield rejected_row(shard.source, f"{path.name}:{number + 1}", UNREADABLE_FILE, error)


def _split_file(file: CorpusShard) -> Iterator[CorpusShard]:
    """Yield the shards of a file. One that cannot be opened is one shard, whose reading ends in a reject."""
    try:
        metadata = pq.read_metadata(file.location)
    except _DAMAGE_ERRORS:
        yield replace(file, options={"row_groups": None, "first_row": 0})
        return
    first_group = first_row = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _ROWS_PER_SHARD or group == metadata.num_row_groups - 1:
            yield replace(file, options={"row_groups": (first_group, group + 1), "first_row": first_row})
            first_group, first_row, rows = group + 1, first_row + rows, 0
