"""JSON Lines: a folder of `<language>.jsonl[.gz]`, or files whose rows name their language. One object a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import list_record_shards
from hbt_ray.data.corpora.record_parsing import parse_record
from hbt_ray.data.text_files import Fault, parse_json, read_lines
from hbt_ray.data.types import CorpusRow, RejectedRow


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted. Raises CorpusError if there is none, or a language is missing."""
    return list_record_shards(corpus, (".jsonl", ".jsonl.gz"))


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each line that is not blank, in order."""
    for line in read_lines(Path(shard.location)):
        if isinstance(line, Fault):
            yield line.reject(shard.source)
            continue
        if not line.raw.strip():
            continue
        record = parse_json(line.text, line.location)
        row = record.reject(shard.source) if isinstance(record, Fault) else parse_record(record, shard, line.location)
        if row is not None:
            yield row
