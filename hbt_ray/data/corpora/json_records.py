"""JSON files `<language>.json[.gz]` that hold a list of objects, or one object a line; an object is a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora import jsonl
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.record_files import RecordFormat, list_record_shards
from hbt_ray.data.corpora.record_parsing import InvalidRow, load_document, parse_record
from hbt_ray.data.text_files import READ_ERRORS, open_binary
from hbt_ray.data.types import CorpusRow, RejectedRow

SUFFIXES = (".json", ".json.gz")
_ROWS_WITH_NAMES = 100  # keys that occur first in a later row are no columns


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted. Raises CorpusError if there is none, or a language or column is missing."""
    return list_record_shards(corpus, RecordFormat(SUFFIXES, column_names, _count_rows))


def split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard of a large file of lines into parts of whole lines."""
    return [shard] if is_list(Path(shard.location)) else jsonl.split_shard(shard, part_bytes)


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each object, located by its number; a list that is damaged is one reject."""
    path = Path(shard.location)
    if not is_list(path):
        yield from jsonl.read_shard(shard)
        return
    try:
        records = load_document(path)
    except InvalidRow as invalid:
        yield invalid.reject(shard.source, path.name)
        return
    for number, record in enumerate(records if isinstance(records, list) else (), start=1):
        row = parse_record(record, shard, f"{path.name}:{number}", number)
        if row is not None:
            yield row


def is_list(path: Path) -> bool:
    """Return True if the first character of a file, other than white space, begins a list."""
    try:
        with open_binary(path) as file:
            return file.read(4096).decode("utf-8-sig", "ignore").lstrip().startswith("[")
    except READ_ERRORS:
        return False


def column_names(path: Path, columns: Columns) -> Sequence[str]:
    """Return the keys of the first objects, in the order in which they occur; none of a damaged file."""
    if not is_list(path):
        return jsonl.column_names(path, columns)
    records = _records(path)[:_ROWS_WITH_NAMES]
    return list(dict.fromkeys(str(key) for record in records if isinstance(record, dict) for key in record))


def _records(path: Path) -> list[object]:
    try:
        records = load_document(path)
    except InvalidRow:
        return []
    return records if isinstance(records, list) else []


def _count_rows(path: Path) -> int:
    return len(_records(path)) if is_list(path) else jsonl.count_rows(path)
