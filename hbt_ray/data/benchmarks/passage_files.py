"""Files of passages in JSON Lines, which may be large: read block by block, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from hbt_ray.data.benchmarks.builder import BenchmarkBuilder, PassageBlock, printable_id
from hbt_ray.data.benchmarks.file_parsing import JsonEntry, read_objects, with_title
from hbt_ray.data.text_files import FilePart
from hbt_ray.data.text_normalization import normalize_for_matching

_MAX_BLOCK = 1 << 14  # passages, which are Python strings until their block is complete


@dataclass(frozen=True, slots=True)
class PassageFile:
    """A file with a passage in each line, and what its keys mean."""

    path: Path
    language: str
    id_key: str = "docid"
    text_key: str = "text"
    has_title: bool = True  # a passage is its `title` and its text
    id_prefix: str = ""
    query_texts: Mapping[str, str] = field(default_factory=dict)  # query id -> normalized text; see `is_query`

    def text_of(self, entry: JsonEntry) -> str:
        """Return the text of a passage."""
        return with_title(entry) if self.has_title else entry.texts[self.text_key]

    def is_query(self, passage_id: str, entry: JsonEntry) -> bool:
        """Return True if a passage, with or without its title, has the text of the query that has its id."""
        query_text = self.query_texts.get(passage_id)
        if not query_text:  # there is none, or it is of punctuation only
            return False
        return query_text in map(normalize_for_matching, (entry.texts["text"], with_title(entry)))


ReadPassages = Callable[[PassageFile], Iterable[PassageBlock]]


def read_blocks(file: PassageFile, part: FilePart | None = None) -> Iterator[PassageBlock]:
    """Yield the passages of a file, or of a part of it, in one block or more."""
    faults = BenchmarkBuilder("")
    passages: list[tuple[str, str, int]] = []  # id, text, line
    query_passages: list[tuple[str, str]] = []

    def block() -> PassageBlock:
        ids, texts, lines = zip(*passages, strict=True) if passages else ((), (), ())
        made = PassageBlock(
            file.path.name,
            file.language,
            pa.array(ids, pa.large_string()),
            pa.array(texts, pa.large_string()),
            np.array(lines, np.int64),
            list(query_passages),
            [(fault.location, fault.reason, fault.detail) for fault in faults.rejects],
        )
        for used in (passages, query_passages, faults.rejects):
            used.clear()
        return made

    for entry in read_objects(file.path, faults, (file.id_key, file.text_key), part):
        passage_id, text = file.id_prefix + entry.texts[file.id_key], file.text_of(entry)
        if not text.strip():
            faults.reject(entry.location, "passage without text", passage_id)
            continue
        passages.append((printable_id(passage_id), text, int(entry.location.rpartition(":")[2])))
        if file.is_query(passage_id, entry):
            query_passages.append((passage_id, entry.location))
        if len(passages) == _MAX_BLOCK:
            yield block()
    yield block()
