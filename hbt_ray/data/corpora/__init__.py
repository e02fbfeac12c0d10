"""Readers of parallel corpora: one module per format, each with `list_shards(corpus)` and `read_shard(part)`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.types import CorpusRow, RejectedRow

__all__ = ["READERS", "CorpusShard", "list_shards", "read_shard"]

# The module that reads each format. Imported on first use: `datasets` and `pyarrow` take seconds to import, which a run
# over other formats need not spend.
READERS = {
    "embedded": "hbt_ray.data.corpora.embedded.dataset",
    "huggingface": "hbt_ray.data.corpora.huggingface",
    "jsonl": "hbt_ray.data.corpora.jsonl",
    "parquet": "hbt_ray.data.corpora.parquet",
    "squad": "hbt_ray.data.corpora.squad",
    "text": "hbt_ray.data.corpora.plain_text",
}


def list_shards(corpus: CorpusConfig, languages: Collection[str] | None = None) -> list[CorpusShard]:
    """The parts of a corpus, always in the same order, without reading its rows.

    `languages` narrows to those that the corpus has; a corpus with none of them has no parts.

    Raises:
        CorpusError: nothing is there to be read, or a language in `corpus.languages` is missing. Where rows
            name their language in a column, a missing language shows only when they are read.
    """
    parts: list[CorpusShard] = _reader(corpus.format).list_shards(corpus)
    if languages is None:
        return parts
    narrowed = (_narrow(part, frozenset(languages)) for part in parts)
    return [part for part in narrowed if part is not None]


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Every row of a part in its order, a `RejectedRow` in place of each that cannot be used."""
    rows: Iterator[CorpusRow | RejectedRow] = _reader(part.format).read_shard(part)
    return rows


def _reader(format: str) -> Any:
    return import_module(READERS[format])


def _narrow(part: CorpusShard, languages: frozenset[str]) -> CorpusShard | None:
    if part.language is not None:
        return part if part.language in languages else None
    wanted = part.options.get("languages")
    chosen = sorted(languages if wanted is None else languages.intersection(wanted))
    return replace(part, options={**part.options, "languages": chosen}) if chosen else None
