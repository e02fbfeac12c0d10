"""Readers of parallel corpora: one module per format, each with `list_parts(corpus)` and `read_part(part)`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from hbt_ray.config import CorpusConfig
from hbt_ray.corpora.part import Part
from hbt_ray.records import Reject, Row

__all__ = ["Part", "list_parts", "read_part"]


def list_parts(corpus: CorpusConfig, languages: Collection[str] | None = None) -> list[Part]:
    """The parts of a corpus, always in the same order, without reading its rows.

    `languages` narrows to those that the corpus has; a corpus with none of them has no parts.

    Raises:
        CorpusError: nothing is there to be read, or a language in `corpus.languages` is missing. Where rows
            name their language in a column, a missing language shows only when they are read.
    """
    parts: list[Part] = _reader(corpus.format).list_parts(corpus)
    if languages is None:
        return parts
    narrowed = (_narrow(part, frozenset(languages)) for part in parts)
    return [part for part in narrowed if part is not None]


def read_part(part: Part) -> Iterator[Row | Reject]:
    """Every row of a part in its order, a `Reject` in place of each that cannot be used."""
    rows: Iterator[Row | Reject] = _reader(part.format).read_part(part)
    return rows


def _reader(format: str) -> Any:
    # Imported when asked for: `datasets` and `pyarrow` take seconds that a run over other formats need not spend.
    return import_module(f"hbt_ray.corpora.{format}")


def _narrow(part: Part, languages: frozenset[str]) -> Part | None:
    if part.language is not None:
        return part if part.language in languages else None
    wanted = part.options.get("languages")
    chosen = sorted(languages if wanted is None else languages.intersection(wanted))
    return replace(part, options={**part.options, "languages": chosen}) if chosen else None
