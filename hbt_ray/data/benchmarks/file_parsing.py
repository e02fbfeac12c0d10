"""The lines of a benchmark's files: JSON, tab-separated values and TREC's judgements, gzipped or not."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.errors import CorpusError


def files_matching(folder: str | Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """The files below a folder whose whole name matches, sorted by path; `.gz` may stand behind.

    Paths are absolute, so that the folders above a file have names, whatever the folder was called by.

    Raises:
        CorpusError: there is no such folder, or a file is a link that leads out of it.
    """
    root = absolute(folder)
    if not root.is_dir():
        raise CorpusError(f"there is no folder {str(root)!r}; correct the benchmark's place")
    found = []
    for path in sorted(root.rglob("*")):
        match = re.fullmatch(pattern + r"(?:\.gz)?", path.name)
        if not match or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            raise CorpusError(f"{str(path)!r} is a link that leads out of its folder; put the file itself there")
        found.append((path, match))
    return found


def absolute(folder: str | Path) -> Path:
    """The folder from the root of the file system. A link keeps its own name."""
    return Path(os.path.abspath(Path(folder).expanduser()))


def read_lines(path: Path, builder: BenchmarkBuilder) -> Iterator[tuple[str, str]]:
    """(location, line) of each line that is not blank; one that is not UTF-8 is rejected, as is a torn file."""
    number = 0
    try:
        with _open(path) as lines:
            for number, raw in enumerate(lines, start=1):
                location = f"{path.name}:{number}"
                try:
                    line = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    builder.reject(location, "wrong encoding", error)
                    continue
                if line.strip():
                    yield location, line
    except (OSError, EOFError, zlib.error) as error:
        builder.reject(f"{path.name}:{number + 1}", "unreadable file", error)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_objects(path: Path, builder: BenchmarkBuilder, texts: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, object) of each line of JSON in which the named keys hold text; others are noted.

    A whole number serves as text, for ids are written as either.
    """
    for location, line in read_lines(path, builder):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            builder.reject(location, "broken JSON", error)
            continue
        if not isinstance(value, dict):
            builder.reject(location, "not an object", f"a {type(value).__name__}")
            continue
        for key in texts:
            if type(value.get(key)) is int:
                value[key] = str(value[key])
        wrong = next((key for key in texts if not is_text(value.get(key))), None)
        if wrong is not None:
            builder.reject(location, "missing text", f"no text in {wrong!r} among {', '.join(map(str, value))}")
            continue
        yield location, value


def with_title(passage: dict[str, Any]) -> str:
    """A passage's text behind its title, as BEIR and MIRACL join them."""
    title = passage.get("title")
    return f"{title} {passage['text']}".strip() if is_text(title) else str(passage["text"])


def is_text(value: object) -> bool:
    """Whether it is a text that can be written as UTF-8: JSON may hold half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_topics(path: Path, builder: BenchmarkBuilder) -> Iterator[tuple[str, str, str]]:
    """(location, query id, text) of lines `query id <tab> text`."""
    for location, line in read_lines(path, builder):
        query_id, tab, text = line.partition("\t")
        if tab and query_id.strip():
            yield location, query_id.strip(), text.strip()
        else:
            builder.reject(location, "not a topic", line)


def read_trec_judgements(path: Path, builder: BenchmarkBuilder) -> Iterator[tuple[str, str, str, int]]:
    """(location, query id, passage id, grade) of lines `query id, anything, passage id, grade`, parted by blanks."""
    for location, line in read_lines(path, builder):
        fields = line.split("\t") if line.count("\t") == 3 else line.split()
        yield from _judgement(location, line, fields, (0, 2, 3), 4, builder)


def read_beir_judgements(path: Path, builder: BenchmarkBuilder) -> Iterator[tuple[str, str, str, int]]:
    """(location, query id, passage id, grade) of lines `query id <tab> passage id <tab> grade` below a heading."""
    for number, (location, line) in enumerate(read_lines(path, builder)):
        fields = line.split("\t")
        if number == 0 and len(fields) == 3 and not _is_grade(fields[2]):
            continue  # query-id, corpus-id, score
        yield from _judgement(location, line, fields, (0, 1, 2), 3, builder)


def _judgement(
    location: str, line: str, fields: list[str], at: tuple[int, int, int], length: int, builder: BenchmarkBuilder
) -> Iterator[tuple[str, str, str, int]]:
    if len(fields) != length or not _is_grade(fields[at[2]]):
        builder.reject(location, "not a judgement", line)
    else:
        yield location, fields[at[0]].strip(), fields[at[1]].strip(), int(fields[at[2]])


def _is_grade(text: str) -> bool:
    return re.fullmatch(r"\s*-?\d{1,9}\s*", text) is not None
