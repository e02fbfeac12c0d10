"""Parse one record of named columns, from any format, into a `CorpusRow` or a `RejectedRow`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import cast

import pyarrow as pa

from hbt_ray.config import Columns
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.column_names import numbered_columns
from hbt_ray.data.text_files import (
    READ_ERRORS,
    UNANSWERABLE,
    UNREADABLE_FILE,
    WRONG_ENCODING,
    id_text,
    is_unanswerable,
    read_bytes,
    rejected_row,
)
from hbt_ray.data.types import CorpusRow, RejectedRow
from hbt_ray.utils.language_codes import language_code, same_language
from hbt_ray.utils.limits import load_json

Record = Mapping[str, object]


class InvalidRow(Exception):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail

    def reject(self, source: str, location: str) -> RejectedRow:
        """Return the row as a reject."""
        return rejected_row(source, location, self.reason, self.detail)


def load_document(path: Path) -> object:
    """Return the value of a whole JSON file. Raises InvalidRow if it cannot be read."""
    try:
        return load_json(read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRow(UNREADABLE_FILE, f"not UTF-8: {error}") from None
    except (*READ_ERRORS, ValueError) as error:
        raise InvalidRow(UNREADABLE_FILE, error) from None


def parse_record(record: object, shard: CorpusShard, location: str, number: int) -> CorpusRow | RejectedRow | None:
    """Return the row of a record with the shard's columns; None if its language is not one of the shard's.

    Args:
        record: the fields by column.
        shard: names the columns.
        location: of the record, such as "de.csv:17".
        number: of the record in its file, from 1; its id if no column has ids.
    """
    try:
        return _parse_record(record, shard, location, number)
    except InvalidRow as invalid:
        return invalid.reject(shard.source, location)


def _parse_record(record: object, shard: CorpusShard, location: str, number: int) -> CorpusRow | None:
    if isinstance(record, UnicodeDecodeError):
        raise InvalidRow(WRONG_ENCODING, record)
    fields = record_of(record)
    columns = shard.columns
    language = shard.language or parse_language(fields, columns.language)
    check_same_language(language, fields.get(columns.language))
    if shard.language is None and shard.languages is not None and language not in shard.languages:
        return None
    if shard.may_lack_texts and not any(fields.get(name) for name in (columns.question, columns.passage)):
        return None
    if is_unanswerable(fields):
        raise InvalidRow(UNANSWERABLE, fields.get(columns.question))
    passage = parse_text(fields, columns.passage, "passage")
    answer, start = parse_answer(passage, fields.get(columns.answer_text), fields.get(columns.answer_start))
    return CorpusRow(
        source=shard.source,
        item_id=parse_id(fields, columns.id) if shard.row_ids is None else f"{shard.row_ids}{number}",
        language=language,
        question=parse_text(fields, columns.question, "question"),
        passage=passage,
        negatives=_parse_negatives(fields, columns.negatives),
        location=location,
        answer=answer,
        answer_start=start,
    )


def record_of(value: object) -> Record:
    """Return the value if it is an object with named fields. Raises InvalidRow otherwise."""
    if not isinstance(value, dict):
        raise InvalidRow("not an object", f"a {type(value).__name__}")
    return value


def parse_text(record: Record, column: str, meaning: str) -> str:
    """Return the text of a column.

    Args:
        record: the fields.
        column: the name of one of them.
        meaning: the word for the field in the reason of a reject: "passage".

    Raises:
        InvalidRow: it is missing, blank, no text, or cannot be encoded as UTF-8.
    """
    value = record.get(column)
    if value is None or value == "":
        raise InvalidRow(f"missing {meaning}", f"no {column!r} among {', '.join(map(str, record))}")
    text = _check_text(value, column)
    if text.isspace():
        raise InvalidRow(f"missing {meaning}", f"{column!r} is only white space")
    return text


def parse_id(record: Record, column: str) -> str:
    """Return an item's id, which may be a whole number. Raises InvalidRow."""
    return parse_text({**record, column: id_text(record.get(column))}, column, "id")


def parse_language(record: Record, column: str) -> str:
    """Return the language that a row names. Raises InvalidRow if it is missing or not like a language code."""
    text = parse_text(record, column, "language")
    language = language_code(text)
    if language is None:
        raise InvalidRow("not a language code", text)
    return language


def check_same_language(language: str, named: object) -> None:
    """Raise InvalidRow if a row names another language than its file. A row without a language has its file's."""
    if named is not None and named != "" and not same_language(language, str(named).strip()):
        raise InvalidRow("language differs from the file's", f"{named}, not {language}")


def parse_answer(passage: str, answer: object, start: object) -> tuple[str | None, int]:
    """Return the answer and its offset in the passage, -1 if unknown. Raises InvalidRow if it is not at its offset."""
    if answer is None or start is None or start != start:  # NaN, as data frames write a missing number
        return (answer if isinstance(answer, str) else None), -1
    if not isinstance(answer, str):
        raise InvalidRow("wrong type", f"the answer is a {type(answer).__name__}")
    offset = whole_number(start)
    if offset is None:
        raise InvalidRow("wrong type", f"the answer's start is a {type(start).__name__}: {start}")
    if offset >= 0 and not passage.startswith(answer, offset):
        raise InvalidRow("answer outside its context", f"at {offset}: {answer}")
    return answer, offset


def whole_number(value: object) -> int | None:
    """Return a whole number, also one that is written as 5.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def records_of_table(table: pa.Table | pa.RecordBatch) -> Iterator[Record | UnicodeDecodeError]:
    """Yield the records of a table; the error instead of a record with a text that is not UTF-8.

    Raises:
        pyarrow.ArrowInvalid: the structure of the table is damaged.
    """
    for column in table.columns:
        _check_structure(column)
    columns = {name: _values_of(table.column(index)) for index, name in enumerate(table.schema.names)}
    for row in range(table.num_rows):
        record = {name: values[row] for name, values in columns.items()}
        error = next((value for value in record.values() if isinstance(value, UnicodeDecodeError)), None)
        yield record if error is None else error


def _check_structure(column: pa.Array | pa.ChunkedArray) -> None:
    """Raise ArrowInvalid if offsets point outside of their data: to read there would crash the process."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):  # offsets are checked first; texts are decoded one by one later
            raise


def _values_of(column: pa.Array | pa.ChunkedArray) -> list[object]:
    try:
        return cast(list[object], column.to_pylist())
    except (ValueError, OverflowError):
        return [_value_of(scalar) for scalar in column]


def _value_of(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
    except (ValueError, OverflowError):  # such as a date that Python cannot represent; it is no text in any case
        return scalar


def present_columns(columns: Columns, names: Collection[str]) -> list[str]:
    """Return the columns that are read, in the order of the file."""
    wanted = {*columns.model_dump().values(), "is_impossible", "answers"}  # the last two: see `is_unanswerable`
    wanted.update(numbered_columns(columns.negatives, names))
    return [name for name in names if name in wanted]


def _parse_negatives(record: Record, column: str) -> tuple[str, ...]:
    """Return the negatives of a list, of a single text, and of the numbered columns; what is null or "" is none."""
    negatives: list[object] = []
    for name in (column, *numbered_columns(column, record)):
        value = record.get(name)
        if isinstance(value, list):
            negatives += value
        elif value is not None and not isinstance(value, str):
            raise InvalidRow("wrong type", f"{name!r} is a {type(value).__name__}, not a text or a list of texts")
        elif value:
            negatives.append(value)
    return tuple(_check_text(negative, column) for negative in negatives if negative is not None)


def _check_text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise InvalidRow("wrong type", f"{column!r} is a {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can hold
        raise InvalidRow(WRONG_ENCODING, error) from None
    return value
