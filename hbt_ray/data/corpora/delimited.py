"""CSV and TSV: a folder of `<language>.csv`, or files whose rows name their language. The first record is the header.

Read with Python's `csv`: a field in quotes may contain delimiters, quotes and line ends. The delimiter of CSV is found
in the first lines; TSV has tabs, and quotes in it are text if the first lines have no fields in quotes, as in MS MARCO.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hbt_ray.config import Columns, CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_parts import is_large, part_of
from hbt_ray.data.corpora.record_files import RecordFormat, list_record_shards
from hbt_ray.data.corpora.record_parsing import parse_record
from hbt_ray.data.text_files import (
    READ_ERRORS,
    UNREADABLE_FILE,
    Fault,
    FilePart,
    TextLine,
    open_binary,
    read_lines,
    split_lines,
)
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.utils.limits import MAX_LINE_BYTES, limit

if TYPE_CHECKING:
    from _csv import Reader

_SUFFIXES = {"csv": (".csv", ".csv.gz"), "tsv": (".tsv", ".tsv.gz", ".tab")}
_DELIMITERS = {"csv": (",", ";", "\t", "|"), "tsv": ("\t",)}
_SAMPLED_LINES = 200
_FIELD_IN_QUOTES = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*"(?:\t|\r?\n?$)')  # of TSV


class _Dialect(NamedTuple):
    delimiter: str
    quotes: bool  # whether a field may be in quotes


class DelimitedRecord(NamedTuple):
    number: int  # from 0; blank ones count
    location: str  # "de.csv:17", the line in which it begins
    fields: list[str]

    @property
    def is_blank(self) -> bool:
        """Return True if all fields are empty or white space."""
        return not any(map(str.strip, self.fields))


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each file, sorted. Raises CorpusError if there is none, or a language or column is missing."""
    format = RecordFormat(_SUFFIXES[corpus.format], header_names, _count_rows)
    return list_record_shards(corpus, format)


def split_shard(shard: CorpusShard, part_bytes: int) -> list[CorpusShard]:
    """Divide a shard of a large file into parts of whole records.

    1. Find the columns, with which all parts but the first are read; one that begins with blank lines is one part.
    2. If a field may be in quotes, read the records to find the ends of the parts: a line may end within a field.
       Otherwise a line is a record.
    """
    path = Path(shard.location)
    # 1.
    header = _first_record(path) if is_large(shard, part_bytes) else None
    if header is None or header.number:
        return [shard]
    names = _names_of(header.fields, shard.columns)
    # 2.
    try:
        if not _find_dialect(path).quotes or not _has_quotes(path):
            parts = [(part, part.lines_before) for part in split_lines(path, part_bytes)]
        else:
            parts = list(_split_records(path, part_bytes))
    except READ_ERRORS:
        return [shard]
    return [
        replace(shard, options={"part": part, "records_before": records, "names": names if part.start else ()})
        for part, records in parts
    ]


def _has_quotes(path: Path) -> bool:
    with open_binary(path) as file:
        return any(b'"' in piece for piece in iter(lambda: file.read(1 << 20), b""))


def _split_records(path: Path, part_bytes: int) -> Iterator[tuple[FilePart, int]]:
    """Yield parts of whole records, and the number of records before each."""
    lines = _Lines(path)
    start = end = lines_before = records_before = 0
    for record in _records_of(lines, _find_dialect(path), 0):
        end = lines.end
        if isinstance(record, DelimitedRecord) and end - start >= part_bytes:
            yield FilePart(start, end, lines_before), records_before
            start, lines_before, records_before = end, lines.number, record.number + 1
    size = path.stat().st_size
    if start < size:
        yield FilePart(start, size, lines_before), records_before


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each record that is not blank, in order."""
    path = Path(shard.location)
    first = 0 if is_headerless(shard.columns) else 1
    names = list(shard.options.get("names", ()))
    for record in read_records(path, part_of(shard), shard.options.get("records_before", 0)):
        if isinstance(record, Fault) and first and not names:  # the next record is no header
            yield Fault(record.location, UNREADABLE_FILE, f"its header: {record.detail}").reject(shard.source)
            return
        if isinstance(record, Fault):
            yield record.reject(shard.source)
            continue
        if record.is_blank:
            continue
        if not names:
            names = _names_of(record.fields, shard.columns)
            if first:
                continue
        if len(record.fields) != len(names):
            detail = f"{len(record.fields)} instead of {len(names)}: {record.fields}"
            yield Fault(record.location, "wrong number of columns", detail).reject(shard.source)
            continue
        fields = dict(zip(names, record.fields, strict=True))
        row = parse_record(_with_numbers(fields, shard.columns), shard, record.location, record.number + 1 - first)
        if row is not None:
            yield row


def header_names(path: Path, columns: Columns) -> Sequence[str]:
    """Return the names of a file's columns; "1", "2" ... of a file without a header; none of a damaged one."""
    record = _first_record(path)
    return _names_of(record.fields, columns) if record is not None else []


def _first_record(path: Path) -> DelimitedRecord | None:
    """Return the first record that is not blank: the header, if there is one. None if there is none before a fault."""
    for record in read_records(path):
        if isinstance(record, Fault):
            return None
        if not record.is_blank:
            return record
    return None


def is_headerless(columns: Columns) -> bool:
    """Return True if the columns of question and passage are numbers: the file has no header."""
    return columns.question.isdecimal() and columns.passage.isdecimal()


def _names_of(fields: Sequence[str], columns: Columns) -> list[str]:
    if is_headerless(columns):
        return [str(number) for number in range(1, len(fields) + 1)]
    return [field.strip() for field in fields]


def _with_numbers(fields: dict[str, str], columns: Columns) -> dict[str, object]:
    """Return the fields with the offset of the answer as a number; "" is none."""
    start = fields.get(columns.answer_start, "").strip()
    if columns.answer_start not in fields:
        return dict(fields)
    return {**fields, columns.answer_start: int(start) if start.lstrip("-").isdecimal() else (start or None)}


def _count_rows(path: Path) -> int:
    """Return the number of the last record that is not blank, counted without a check of every line."""
    dialect = _find_dialect(path)
    last = 0
    try:
        with io.TextIOWrapper(open_binary(path), encoding="utf-8", errors="replace", newline="") as lines:
            for number, fields in enumerate(_csv_reader(lines, dialect)):
                if any(fields):
                    last = number
    except (*READ_ERRORS, csv.Error):  # which reading the rows rejects
        pass
    return last


def read_records(
    path: Path, part: FilePart | None = None, records_before: int = 0
) -> Iterator[DelimitedRecord | Fault]:
    """Yield every record of a file, or of a part that begins with a record, the header and blank ones included.

    A line that cannot be decoded or is too long is a fault; with it, the record that it is in the middle of. A quote
    that is never closed, or by a stray one in a later line, makes the file a fault: the records between are one field.
    """
    return _records_of(_Lines(path, part), _find_dialect(path), records_before)


def _records_of(lines: _Lines, dialect: _Dialect, records_before: int) -> Iterator[DelimitedRecord | Fault]:
    reader = _csv_reader(lines, dialect)
    number = records_before - 1
    while True:
        lines.begin_record()
        number += 1
        try:
            fields = next(reader)
        except StopIteration:
            yield from lines.faults
            return
        except csv.Error as error:
            fields = None
            is_long = "field larger than field limit" in str(error)
            fault = Fault(lines.location, "line too long" if is_long else "carriage return outside quotes", error)
        yield from lines.faults
        if lines.is_unclosed:
            yield Fault(lines.location, UNREADABLE_FILE, 'a quote before a field is never closed; write "" for a quote')
            return
        if lines.is_broken:
            continue
        if fields is not None and _joins_records(lines.texts, dialect):
            detail = f"a quote before a field is closed within a text {len(lines.texts) - 1} lines below"
            yield Fault(lines.location, UNREADABLE_FILE, f'{detail}; write "" for a quote')
            return
        number += len(lines.faults)  # each was a record, so that row numbers agree with those of a parallel file
        if fields is None:
            yield fault
            continue
        yield DelimitedRecord(number, lines.location, fields)


def _csv_reader(lines: Iterable[str], dialect: _Dialect, *, strict: bool = False) -> Reader:
    csv.field_size_limit(limit(MAX_LINE_BYTES))  # of the whole process
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=dialect.delimiter, quoting=quoting, strict=strict)


def _joins_records(lines: Sequence[str], dialect: _Dialect) -> bool:
    """Return whether a stray quote joins the lines of a record: one that closes a field has more text after it."""
    if len(lines) < 2:  # only this record's text is affected
        return False
    try:
        list(_csv_reader(lines, dialect, strict=True))
    except csv.Error as error:
        return "expected after" in str(error)  # a record that is cut is another error
    return False


class _Lines:
    """Iterates over the texts of a file's lines, and keeps the faults and the location of the current record."""

    def __init__(self, path: Path, part: FilePart | None = None) -> None:
        self._lines = read_lines(path, part)
        self.end = self.number = 0  # of the last line that is no fault
        self.begin_record()

    def begin_record(self) -> None:
        self.faults: list[Fault] = []
        self.texts: list[str] = []  # of the record's lines
        self.location = ""  # of the record's first line; "" before it is read
        self.is_broken = False  # whether a line in the middle of the record is a fault
        self.is_unclosed = False  # whether the lines end in the middle of the record

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            if isinstance(line, TextLine):
                self.location = self.location or line.location
                self.end, self.number = line.end, line.number
                self.texts.append(line.text)
                return line.text
            self.faults.append(line)
            self.is_broken = bool(self.location)
        self.is_unclosed = bool(self.location)
        raise StopIteration


def _find_dialect(path: Path) -> _Dialect:
    """Return the dialect with which most of the first records have as many fields as the header, and the most fields.

    Quotes are recognized unless more records fit without them, because a stray quote joins lines. If as many fit, those
    of TSV are recognized if a field is in quotes.
    """
    format = "tsv" if path.name.endswith(_SUFFIXES["tsv"]) else "csv"
    texts = [line.text for line in itertools.islice(read_lines(path), _SAMPLED_LINES) if isinstance(line, TextLine)]
    preferred = format == "csv" or any(map(_FIELD_IN_QUOTES.search, texts))
    candidates = [
        _Dialect(delimiter, quotes) for quotes in (preferred, not preferred) for delimiter in _DELIMITERS[format]
    ]
    return max(candidates, key=lambda dialect: _fit(texts, dialect))


def _fit(texts: Sequence[str], dialect: _Dialect) -> tuple[bool, float, int]:
    """Return (whether there are several columns, the share of lines in records of the header's width, the width)."""
    reader = _csv_reader(texts, dialect)
    width = fitting = read = 0
    try:
        for fields in reader:
            width = width or (len(fields) if any(map(str.strip, fields)) else 0)
            is_fitting = len(fields) in (0, width) and not _joins_records(texts[read : reader.line_num], dialect)
            fitting += (reader.line_num - read) * is_fitting
            read = reader.line_num
    except csv.Error:
        return False, 0.0, 0
    return width > 1, fitting / max(read, 1), width
