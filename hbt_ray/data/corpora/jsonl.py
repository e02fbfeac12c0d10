"""JSON Lines: a folder of `<language>.jsonl[.gz]`, or files whose rows name their language. One object a line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_parts import lines_of, split_by_lines
from hbt_ray.data.corpora.record_files import RecordFormat, list_record_shards
from hbt_ray.data.corpora.record_parsing import parse_record
from hbt_ray.data.text_files import Fault, TextLine, parse_json, read_lines
from hbt_ray.data.types import CorpusRow, RejectedRow

_LINES_WITH_NAMES = 100  # keys that occur first in a later line are no columns


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted. Raises CorpusError if there is none, or a language or column is missing."""
    return list_record_shards(corpus, RecordFormat((".jsonl", ".jsonl.gz", ".ndjson"), column_names, count_rows))


def split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard of a large file into parts of whole lines."""
    return split_by_lines(shard, part_bytes)


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each line that is not blank, in order."""
    for line in lines_of(shard):
        if isinstance(line, Fault):
            yield line.reject(shard.source)
            continue
        if not line.raw.strip():
            continue
        record = parse_json(line.text, line.location)
        if isinstance(record, Fault):
            yield record.reject(shard.source)
            continue
        row = parse_record(record, shard, line.location, line.number)
        if row is not None:
            yield row


def column_names(path: Path, columns: Columns) -> Sequence[str]:
    """Return the keys of the first lines, in the order in which they occur."""
    lines = (line for line in itertools.islice(read_lines(path), _LINES_WITH_NAMES) if isinstance(line, TextLine))
    records = (parse_json(line.text, line.location) for line in lines)
    return list(dict.fromkeys(str(key) for record in records if isinstance(record, dict) for key in record))


def count_rows(path: Path) -> int:
    """Return the number of the last line that is not blank."""
    return max((line.number for line in read_lines(path) if isinstance(line, TextLine) and line.raw.strip()), default=0)
