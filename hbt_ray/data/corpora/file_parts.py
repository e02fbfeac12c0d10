"""Large files of lines as several shards, each of which has whole lines and knows how many are before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.text_files import READ_ERRORS, Fault, FilePart, TextLine, read_lines, split_lines


def is_large(shard: CorpusShard, part_bytes: int) -> bool:
    """Return whether the file of a shard has more than one part; a compressed one cannot be divided."""
    path = Path(shard.location)
    return not path.name.endswith(".gz") and path.is_file() and path.stat().st_size > part_bytes


def split_by_lines(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard whose rows are single lines. A file that cannot be read is one shard, whose reading rejects it."""
    if not is_large(shard, part_bytes):
        return [shard]
    try:
        parts = list(split_lines(Path(shard.location), part_bytes))
    except READ_ERRORS:
        return [shard]
    return [replace(shard, options={**shard.options, "part": part}) for part in parts]


def part_of(shard: CorpusShard) -> FilePart | None:
    """Return the part of its file that a shard is; None: the whole file."""
    part: FilePart | None = shard.options.get("part")
    return part


def lines_of(shard: CorpusShard) -> Iterator[TextLine | Fault]:
    """Yield the lines of a shard, as `read_lines`."""
    return read_lines(Path(shard.location), part_of(shard))
