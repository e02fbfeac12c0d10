"""Parquet: a folder of `<language>.parquet`, or files whose rows name their language. Read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.record_files import RecordFormat, list_record_shards
from hbt_ray.data.corpora.record_parsing import parse_record, present_columns, records_of_table
from hbt_ray.data.text_files import UNREADABLE_FILE, rejected_row
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.utils.limits import check_growth, max_decompressed_bytes

_ROWS_PER_SHARD = 65_536  # a shard ends with the row group that reaches this number
_ROWS_PER_BATCH = 1024
_MAX_BATCH_BYTES = 1 << 30
_STORED_BYTES = 16  # of a value, on average: below, a column's values are short or stored once and repeated

# The errors of Arrow for a damaged file: a truncated footer is an ArrowInvalid, a damaged page an OSError.
_DAMAGE_ERRORS = (OSError, pa.ArrowException, ValueError, MemoryError)


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List the shards by file and range of row groups.

    Raises:
        CorpusError: there is no file, or a language or column is missing.
    """
    files = list_record_shards(corpus, RecordFormat((".parquet",), column_names, _count_rows))
    return [shard for file in files for shard in _split_file(file)]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each row of the shard, numbered from 1 in its file."""
    path = Path(shard.location)
    number = int(shard.options["first_row"])
    try:
        with pq.ParquetFile(path) as file:
            columns = present_columns(shard.columns, file.schema_arrow.names)
            groups = range(*(shard.options["row_groups"] or (0, file.num_row_groups)))
            left = max_decompressed_bytes(path.stat().st_size)
            check_growth(left - sum(file.metadata.row_group(group).total_byte_size for group in groups))
            for batch in file.iter_batches(_rows_per_batch(file.metadata, groups), row_groups=groups, columns=columns):
                left -= batch.nbytes  # more than the sizes in the metadata where values are repeated
                check_growth(left)
                for record in records_of_table(batch):
                    number += 1
                    row = parse_record(record, shard, f"{path.name}:{number}", number)
                    if row is not None:
                        yield row
    except _DAMAGE_ERRORS as error:
        yield rejected_row(shard.source, f"{path.name}:{number + 1}", UNREADABLE_FILE, error)


def _rows_per_batch(metadata: pq.FileMetaData, groups: range) -> int:
    """Return the rows to decode at a time: a value that is stored once may be repeated in each of them."""
    largest = 1
    for group in groups:
        chunks = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
        repeated = [one for one in chunks if one.total_uncompressed_size < _STORED_BYTES * one.num_values]
        largest = max(largest, sum(one.total_uncompressed_size for one in repeated))
    return max(1, min(_ROWS_PER_BATCH, _MAX_BATCH_BYTES // largest))


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


def column_names(path: Path, columns: Columns) -> Sequence[str]:
    """Return the names of a file's columns; none of a file that cannot be read."""
    try:
        return [str(name) for name in pq.read_schema(path).names]
    except _DAMAGE_ERRORS:
        return []


def _count_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except _DAMAGE_ERRORS:
        return 0
