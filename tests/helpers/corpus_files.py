"""Small corpora, their files, and the rows that the readers return."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora import list_shards, read_shard
from hbt_ray.data.types import CorpusRow, RejectedRow

GOOD = {"id": "a", "question": "Wo?", "context": "Dort."}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def corpus(format: str, path: Path, **settings: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"format": format, "name": "source", "path": str(path), **settings})


def read(config: CorpusConfig, languages: Iterable[str] | None = None) -> list[CorpusRow | RejectedRow]:
    shards = list_shards(config, None if languages is None else set(languages))
    return [row for shard in shards for row in read_shard(shard)]


def write_lines(file: Path, *records: Any) -> None:
    """Write each record as a line of JSON, and bytes as they are."""
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    content = b"\n".join(lines)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def only_reject(rows: list[CorpusRow | RejectedRow]) -> RejectedRow:
    assert len(rows) == 1
    assert isinstance(rows[0], RejectedRow)
    return rows[0]


def table(languages: list[str] | None = None, rows: int = 3) -> pa.Table:
    columns: dict[str, Any] = {
        "id": [f"i{n}" for n in range(rows)],
        "question": [f"q{n}" for n in range(rows)],
        "context": [f"p{n}" for n in range(rows)],
        "negatives": [[f"n{n}"] for n in range(rows)],
        "unused": [None] * rows,
    }
    return pa.table(columns | ({"language": languages} if languages else {}))
