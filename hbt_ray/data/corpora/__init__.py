"""Readers of parallel corpora: a module for each format, which implements `CorpusReader`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from hbt_ray.config import CORPUS_READERS, CorpusConfig
from hbt_ray.data.corpora.base import CorpusReader, CorpusShard
from hbt_ray.data.corpora.file_discovery import name_unread_files
from hbt_ray.data.mined_files import check_mined_files
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.errors import ConfigError, CorpusError
from hbt_ray.utils.language_codes import language_code

__all__ = [
    "READERS",
    "CorpusReader",
    "CorpusShard",
    "check_languages_of_run",
    "list_shards",
    "read_shard",
    "reader_of",
    "split_shard",
    "split_shards",
]

PART_BYTES = 1 << 24  # of the parts of a file
READERS = CORPUS_READERS  # defined with the settings, which accept exactly its formats


def reader_of(format: str) -> CorpusReader:
    """Import the reader of a format. `datasets` and `pyarrow` take seconds to import, so only on first use."""
    return cast(CorpusReader, import_module(READERS[format]))


def list_shards(corpus: CorpusConfig, languages: Collection[str] | None = None) -> list[CorpusShard]:
    """List the shards of a corpus without reading its rows, always in the same order.

    Args:
        corpus: one source.
        languages: keep only these, as far as the corpus has them; a corpus with none of them has no shards.

    Raises:
        CorpusError: there is nothing to read, not even a row; a file of mined negatives is not as it was written; or a
            language of `corpus.languages` is missing. If rows name their language, a missing one cannot be seen here.
    """
    shards = reader_of(corpus.format).list_shards(corpus)
    if not shards:
        raise CorpusError(f"the corpus {corpus.name!r} at {str(corpus.path)!r} has no rows; leave it out of corpora")
    read = [Path(path) for shard in shards for path in shard.paths]
    if any(path.parent == Path(str(corpus.path)).expanduser() for path in read):
        name_unread_files(corpus.name, read[0].parent, read, corpus.languages or languages)
    check_mined_files(corpus.name, read)
    if languages is None:
        return shards
    narrowed = (_narrow(shard, frozenset(languages)) for shard in shards)
    return [shard for shard in narrowed if shard is not None]


def check_languages_of_run(languages: Collection[str], corpora: Sequence[CorpusConfig]) -> None:
    """Check that the corpora have the languages of a run, as far as this can be seen without reading rows.

    Raises:
        ConfigError: a language is no code, or none of the corpora has it.
        CorpusError: a corpus cannot be listed.
    """
    shards = [shard for corpus in corpora for shard in list_shards(corpus)]
    found = sorted({shard.language for shard in shards if shard.language is not None})
    missing = sorted(set(languages) - set(found))
    named_by_rows = any(shard.language is None for shard in shards)
    if named_by_rows:
        missing = [language for language in missing if language_code(language) is None]
    if missing:
        there = "" if named_by_rows else f"; there are {', '.join(found)}"
        what = "is no language code" if language_code(missing[0]) is None else "is not in the corpora"
        raise ConfigError(f"languages: {missing[0]!r} {what}{there}")


def split_shard(shard: CorpusShard, part_bytes: int | None = None) -> list[CorpusShard]:
    """Divide a shard that is a large file, if its format can be, into shards of which the rows are the same, in order.

    The file is read once to count its lines; a part of it ends with the line that reaches `part_bytes`.
    """
    split = getattr(reader_of(shard.format), "split_shard", None)
    return [shard] if split is None else list(split(shard, part_bytes or PART_BYTES))


def split_shards(shards: Iterable[CorpusShard]) -> list[CorpusShard]:
    """Divide each shard that is a large file, as `split_shard`."""
    return [part for shard in shards for part in split_shard(shard)]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield every row of a shard in order, with a rejected row for each that cannot be used."""
    return reader_of(shard.format).read_shard(shard)


def _narrow(shard: CorpusShard, languages: frozenset[str]) -> CorpusShard | None:
    """Return the shard with only some of its languages; None if it has none of them."""
    if shard.language is not None:
        return shard if shard.language in languages else None
    chosen = sorted(languages if shard.languages is None else languages.intersection(shard.languages))
    return replace(shard, languages=tuple(chosen)) if chosen else None
