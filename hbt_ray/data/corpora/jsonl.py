"""JSON Lines: a folder of `<language>.jsonl[.gz]`, or files whose rows name their language. One object a line."""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import list_file_parts, open_file
from hbt_ray.data.corpora.record_parsing import InvalidRow, reject, row_of_record
from hbt_ray.data.types import CorpusRow, RejectedRow

_SUFFIXES = (".jsonl", ".jsonl.gz")


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """One part per file, sorted. Raises CorpusError when there is none, or a language is missing."""
    return list_file_parts(corpus, _SUFFIXES, {"columns": corpus.columns.model_dump()})


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """One row or reject for each line that is not blank, in order; a last reject where the file breaks off."""
    path = Path(part.location)
    number = 0
    try:
        with open_file(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = _row_of_line(line, part, f"{path.name}:{number}")
                if row is not None:
                    yield row
    except (OSError, EOFError, zlib.error) as error:
        yield reject(part.source, f"{path.name}:{number + 1}", "unreadable file", error)


def _row_of_line(line: bytes, part: CorpusShard, location: str) -> CorpusRow | RejectedRow | None:
    try:
        record = _parse(line)
    except InvalidRow as bad:
        return bad.at(part.source, location)
    return row_of_record(record, part, location)


def _parse(line: bytes) -> object:
    try:
        return json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRow("wrong encoding", error) from None
    except (ValueError, RecursionError) as error:
        raise InvalidRow("broken JSON", error) from None
