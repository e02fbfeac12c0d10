"""Corpora of JSON Lines, and their tables of rows."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora import CorpusShard, list_shards
from hbt_ray.data.decontamination import DecontaminationIndex
from hbt_ray.data.row_tables import read_rows
from tests.helpers import tiny_corpus


def record(item: int, language: str, **changed: Any) -> dict[str, Any]:
    """Return the JSON record of an item."""
    return {
        "id": f"item-{item:03d}",
        "question": tiny_corpus.question(language, item),
        "context": tiny_corpus.passage(language, item),
    } | changed


def write_corpus(folder: Path, rows: Mapping[str, Sequence[dict[str, Any] | str]]) -> list[CorpusShard]:
    """Write a file for each language, of records or raw lines, and return the corpus' shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, records in rows.items():
        lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in records]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list_shards(CorpusConfig(format="jsonl", path=str(folder)))


def read_table(shards: Sequence[CorpusShard], evaluation: DecontaminationIndex | None = None) -> pa.Table:
    """Read all rows into one table."""
    return pa.concat_tables(read_rows(shards, evaluation))


def shuffled(rows: pa.Table, seed: int = 0) -> pa.Table:
    """Return the rows in a random order."""
    order = list(range(rows.num_rows))
    random.Random(seed).shuffle(order)
    return rows.take(order)
