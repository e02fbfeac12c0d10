"""Find and parse the files of a benchmark: JSON Lines, tab-separated topics, judgements in TREC's and BEIR's formats.

Files may be gzipped. The iterators give each entry's location, "de.jsonl.gz:17", and reject entries that do not parse.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

from hbt_ray.data import text_files
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.errors import CorpusError


class JsonEntry(NamedTuple):
    location: str
    texts: dict[str, str]  # the texts of the keys that the format requires
    fields: dict[str, object]  # the whole object


class Topic(NamedTuple):
    location: str
    query_id: str
    text: str


class Judgement(NamedTuple):
    location: str
    query_id: str
    passage_id: str
    grade: int


def files_matching(folder: str | Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """List the files below a folder whose whole name matches, with or without `.gz` at the end, sorted by path.

    Paths are absolute, so that the folders above a file have names even if the folder is given as ".".

    Raises:
        CorpusError: the folder does not exist, or a file is a link out of it.
    """
    root = absolute(folder)
    if not root.is_dir():
        raise CorpusError(f"there is no folder {str(root)!r}; correct the benchmark's place")
    found = []
    for path in sorted(root.rglob("*")):
        match = re.fullmatch(pattern + r"(?:\.gz)?", path.name)
        if not match or not path.is_file():
            continue
        text_files.check_inside(path, root)
        found.append((path, match))
    return found


def absolute(folder: str | Path) -> Path:
    """Return the absolute path of a folder, without resolving links."""
    return Path(os.path.abspath(Path(folder).expanduser()))


def read_lines(
    path: Path, builder: BenchmarkBuilder, part: text_files.FilePart | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (location, line) of each line that is not blank, without its end of line."""
    for line in text_files.read_lines(path, part):
        if isinstance(line, text_files.Fault):
            builder.reject(*line)
        elif line.text.strip():
            yield line.location, line.text.rstrip("\r\n")


def read_objects(
    path: Path, builder: BenchmarkBuilder, required: tuple[str, ...], part: text_files.FilePart | None = None
) -> Iterator[JsonEntry]:
    """Yield the object of each line of JSON, of a file or a part of it.

    An object without text under one of the keys `required` is rejected. The first of them is that of the id, which may
    be a whole number; white space around it is removed, as around the ids of tables, and an empty one is rejected.
    """
    for location, line in read_lines(path, builder, part):
        value = text_files.parse_json(line, location)
        if isinstance(value, text_files.Fault):
            builder.reject(*value)
            continue
        if not isinstance(value, dict):
            builder.reject(location, "not an object", f"a {type(value).__name__}")
            continue
        texts: dict[str, str] = {}
        for key in required:
            text = text_files.id_text(value.get(key))
            if key == required[0] and isinstance(text, str):
                text = text.strip() or None
            if not is_text(text):
                builder.reject(location, "missing text", f"no text in {key!r} among {', '.join(map(str, value))}")
                break
            texts[key] = text
        else:
            yield JsonEntry(location, texts, value)


def with_title(entry: JsonEntry) -> str:
    """Return a passage's `title` and `text`, joined as in BEIR and MIRACL."""
    title = entry.fields.get("title")
    return f"{title} {entry.texts['text']}".strip() if is_text(title) else entry.texts["text"]


def is_text(value: object) -> TypeGuard[str]:
    """Return True for a text that UTF-8 can encode; JSON can hold half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_topics(path: Path, builder: BenchmarkBuilder) -> Iterator[Topic]:
    """Yield the topics of lines `query id <tab> text`."""
    for location, line in read_lines(path, builder):
        query_id, tab, text = line.partition("\t")
        if tab and query_id.strip():
            yield Topic(location, query_id.strip(), text.strip())
        else:
            builder.reject(location, "not a topic", line)


def read_trec_judgements(path: Path, builder: BenchmarkBuilder) -> Iterator[Judgement]:
    """Yield the judgements of lines `query id, unused, passage id, grade`, separated by white space."""
    for location, line in read_lines(path, builder):
        fields = line.split("\t") if line.count("\t") == 3 else line.split()
        judgement = _parse_judgement(location, (fields[0], *fields[2:]) if len(fields) == 4 else ())
        if judgement is None:
            builder.reject(location, "not a judgement", line)
        else:
            yield judgement


def read_beir_judgements(path: Path, builder: BenchmarkBuilder) -> Iterator[Judgement]:
    """Yield the judgements of lines `query id <tab> passage id <tab> grade`, with or without a header."""
    for number, (location, line) in enumerate(read_lines(path, builder)):
        fields = line.split("\t")
        if number == 0 and len(fields) == 3 and not re.search(r"\d", fields[2]):
            continue  # the header: query-id, corpus-id, score
        judgement = _parse_judgement(location, fields)
        if judgement is None:
            builder.reject(location, "not a judgement", line)
        else:
            yield judgement


def _parse_judgement(location: str, fields: Sequence[str]) -> Judgement | None:
    """Return the judgement of the fields (query id, passage id, grade); None if they are none."""
    if len(fields) != 3 or not _is_grade(fields[2]):
        return None
    return Judgement(location, fields[0].strip(), fields[1].strip(), int(float(fields[2])))


def _is_grade(text: str) -> bool:
    return re.fullmatch(r"\s*-?[0-9]{1,9}(\.0*)?\s*", text) is not None
