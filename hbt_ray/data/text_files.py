"""Local text files, gzipped or not: open, decode, number the lines, and reject those that cannot be used.

Every reader of corpora and benchmarks reads text through this module, so all of them reject the same faults with the
same reasons.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hbt_ray.data.types import RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.utils.limits import MAX_LINE_BYTES, check_growth, limit, load_json, max_decompressed_bytes

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

UNREADABLE_FILE, WRONG_ENCODING, BROKEN_JSON = "unreadable file", "wrong encoding", "broken JSON"
UNANSWERABLE = "marked as unanswerable"  # no fault, so it does not count towards `prepare.max_reject_share`
READ_ERRORS = (OSError, EOFError, zlib.error)  # of a file that is missing, forbidden, truncated or no gzip file
_MAX_DETAIL_CHARS = 200
_CHUNK_BYTES = 1 << 18
_opened: ContextVar[set[Path] | None] = ContextVar("opened", default=None)


class TextLine(NamedTuple):
    number: int  # from 1
    location: str  # "de.jsonl.gz:17"
    raw: bytes  # with its end of line
    text: str  # `raw` decoded, without a byte order mark
    end: int  # offset of the byte after it, in the file as decompressed


class FilePart(NamedTuple):
    """Whole lines of a file that is not compressed."""

    start: int  # offset of its first byte
    end: int  # offset of the byte after its last
    lines_before: int  # in the file


class Fault(NamedTuple):
    """A line or file that cannot be used."""

    location: str  # "de.jsonl.gz:17"
    reason: str  # a fixed phrase
    detail: object  # the error, or the content that was refused

    def reject(self, source: str) -> RejectedRow:
        """Return the fault as a rejected row of a source."""
        return rejected_row(source, self.location, self.reason, self.detail)


def rejected_row(source: str, location: str, reason: str, detail: object = "") -> RejectedRow:
    """Return a rejected row whose detail has at most 200 characters, all of which UTF-8 can encode."""
    text = str(detail)[:_MAX_DETAIL_CHARS].encode("utf-8", "backslashreplace").decode("utf-8")
    return RejectedRow(source, location, reason, text[:_MAX_DETAIL_CHARS])


def read_lines(path: Path, part: FilePart | None = None) -> Iterator[TextLine | Fault]:
    """Yield every line of a file, or of a part of it, numbered from 1 in the file, blank ones included.

    A line that is not UTF-8, has a NUL, or is longer than HBT_MAX_LINE_BYTES is a fault. A file that breaks off, or is
    decompressed to more than HBT_MAX_GROWTH times its size, ends in a fault at the line after the last whole one.
    """
    end, last, number = part or (0, None, 0)
    longest = limit(MAX_LINE_BYTES)
    try:
        with open_binary(path) as lines:
            if end:
                lines.seek(end)
            while (last is None or end < last) and (raw := lines.readline(longest + 1)):
                number += 1
                location = f"{path.name}:{number}"
                end += len(raw)
                if len(raw) > longest:
                    end += _skip_line(lines, raw)
                    yield Fault(location, "line too long", f"more than {longest} bytes; raise {MAX_LINE_BYTES}")
                    continue
                if b"\0" in raw:
                    yield Fault(location, WRONG_ENCODING, "a NUL, perhaps of UTF-16; save the file as UTF-8")
                    continue
                try:
                    text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
                except UnicodeDecodeError as error:
                    yield Fault(location, WRONG_ENCODING, error)
                    continue
                yield TextLine(number, location, raw, text, end)
    except READ_ERRORS as error:
        yield Fault(f"{path.name}:{number + 1}", UNREADABLE_FILE, error)


def _skip_line(lines: io.BufferedReader, read: bytes) -> int:
    """Read the rest of a line, in pieces; return its number of bytes."""
    skipped = 0
    while read and not read.endswith(b"\n"):
        read = lines.readline(_CHUNK_BYTES)
        skipped += len(read)
    return skipped


def split_lines(path: Path, part_bytes: int) -> Iterator[FilePart]:
    """Divide a file that is not compressed into parts of whole lines; a part ends with the line at `part_bytes`.

    Its bytes are read once, a part at a time, to count the lines. Raises READ_ERRORS.
    """
    with open_binary(path) as file:
        end = lines = 0
        while piece := file.read(part_bytes):
            start, lines_before = end, lines
            end += len(piece) + _skip_line(file, piece)
            lines += piece.count(b"\n") + (not piece.endswith(b"\n"))
            yield FilePart(start, end, lines_before)


def parse_json(text: str, location: str) -> object | Fault:
    """Return the value of a text in JSON, or the fault."""
    try:
        return load_json(text)
    except ValueError as error:
        return Fault(location, BROKEN_JSON, error)


def id_text(value: object) -> object:
    """Return an id that is a whole number as text; anything else unchanged. Ids are written as either.

    >>> id_text(10), id_text(10.0), id_text("010"), id_text(1.5)
    ('10', '10', '010', 1.5)
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_unanswerable(fields: Mapping[str, object]) -> bool:
    """Return True if a question is marked as one that its passage does not answer: the two are no positive pair.

    SQuAD 2.0 marks it by `is_impossible`, its edition on the hub by an empty list: `answers: {"text": []}`.
    """
    flag, answers = fields.get("is_impossible"), fields.get("answers")
    return str(flag).lower() in {"true", "1", "1.0"} or (isinstance(answers, Mapping) and answers.get("text") == [])


@contextmanager
def recorded_files() -> Iterator[set[Path]]:
    """Collect the files that are opened in the block, so that those that nothing reads can be named."""
    token = _opened.set(set())
    try:
        opened = _opened.get()
        assert opened is not None
        yield opened
    finally:
        _opened.reset(token)


def _record(path: Path) -> None:
    opened = _opened.get()
    if opened is not None:
        opened.add(path)


def open_binary(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes, decompressed if its name ends in .gz, up to the limit of its growth."""
    _record(path)
    return io.BufferedReader(_Decompressed(path), _CHUNK_BYTES) if path.name.endswith(".gz") else path.open("rb")


class _Decompressed(io.RawIOBase):
    """Reads a gzipped file; raises OSError where it holds more bytes than the limit of its growth."""

    def __init__(self, path: Path) -> None:
        self._left = max_decompressed_bytes(path.stat().st_size)
        self._file = gzip.open(path, "rb")  # noqa: SIM115 (closed with this file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self._file.read1(len(view))
        self._left -= len(content)
        check_growth(self._left)
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if its name ends in .gz. Raises READ_ERRORS."""
    with open_binary(path) as file:
        return file.read()


def is_inside(path: Path, folder: Path) -> bool:
    """Return True if a path is below a folder once all links are resolved.

    Files of the Hugging Face hub's cache are links, `snapshots/<revision>/FILE` to `../../blobs/<hash>`. They count as
    inside: the folder is then that of the repository, with both.
    """
    target = path.resolve()
    snapshots = next((parent for parent in path.absolute().parents if parent.name == "snapshots"), None)
    is_cached = snapshots is not None and target.parent == (snapshots.parent / "blobs").resolve()
    return is_cached or target.is_relative_to(folder.resolve())


def check_inside(path: Path, folder: Path) -> None:
    """Raise CorpusError if a file is a link out of its folder: it could show any file of the machine."""
    if not is_inside(path, folder):
        raise CorpusError(f"{str(path)!r} is a link that leads out of its folder; put the file itself there")
