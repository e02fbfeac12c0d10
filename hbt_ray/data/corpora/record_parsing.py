"""One record of named columns, from whatever file, to a `CorpusRow` or a `RejectedRow`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.types import CorpusRow, RejectedRow

_MAX_DETAIL_CHARS = 200

# What a column may name as a language, wider than a file's name: "zh_TW" and "eng_Latn" are met in data sets.
_LANGUAGE_VALUE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")


class InvalidRow(Exception):
    """A row that cannot be used: a fixed phrase, and what was seen."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail

    def at(self, source: str, location: str) -> RejectedRow:
        return reject(source, location, self.reason, self.detail)


def reject(source: str, location: str, reason: str, detail: object = "") -> RejectedRow:
    """A `RejectedRow` whose detail is short and can be written as UTF-8."""
    text = str(detail)[:_MAX_DETAIL_CHARS].encode("utf-8", "backslashreplace").decode("utf-8")
    return RejectedRow(source, location, reason, text[:_MAX_DETAIL_CHARS])


def row_of_record(record: object, part: CorpusShard, location: str) -> CorpusRow | RejectedRow | None:
    """The row that a record holds by `part.options["columns"]`; None when it is in a language not asked for."""
    try:
        return _row_of_record(record, part, location)
    except InvalidRow as bad:
        return bad.at(part.source, location)


def _row_of_record(record: object, part: CorpusShard, location: str) -> CorpusRow | None:
    if isinstance(record, UnicodeDecodeError):
        raise InvalidRow("wrong encoding", record)
    if not isinstance(record, dict):
        raise InvalidRow("not an object", f"a {type(record).__name__}")
    columns = part.options["columns"]
    language = part.language or language_of(record, columns["language"])
    wanted = part.options.get("languages")
    if part.language is None and wanted is not None and language not in wanted:
        return None
    passage = text_of(record, columns["passage"], "passage")
    answer, start = record.get(columns["answer_text"]), record.get(columns["answer_start"])
    check_answer(passage, answer, start)
    known = isinstance(answer, str)
    return CorpusRow(
        source=part.source,
        item_id=id_of(record, columns["id"]),
        language=language,
        question=text_of(record, columns["question"], "question"),
        passage=passage,
        negatives=_negatives_of(record, columns["negatives"]),
        location=location,
        answer=answer if known else None,
        answer_start=start if known and start is not None else -1,
    )


def text_of(record: Mapping[str, Any], column: str, what: str) -> str:
    """The text of a column. Raises InvalidRow when it is missing, empty, not text, or not writable as UTF-8."""
    value = record.get(column)
    if value is None or value == "":
        raise InvalidRow(f"missing {what}", f"no {column!r} among {', '.join(map(str, record))}")
    text = _checked_text(value, column)
    if text.isspace():
        raise InvalidRow(f"missing {what}", f"{column!r} is only white space")
    return text


def id_of(record: Mapping[str, Any], column: str) -> str:
    """An item's id, which may be written as a whole number. Raises InvalidRow."""
    value = record.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(record, column, "id")


def language_of(record: Mapping[str, Any], column: str) -> str:
    """The language a row names. Raises InvalidRow when it is missing or cannot be a language's code."""
    language = text_of(record, column, "language")
    if not _LANGUAGE_VALUE.fullmatch(language):
        raise InvalidRow("not a language code", language)
    return language


def check_answer(passage: str, answer: object, start: object) -> None:
    """Raises InvalidRow unless the answer stands at its offset; without an offset, or with -1, it is not looked for."""
    if answer is None or start is None:
        return
    if not isinstance(answer, str):
        raise InvalidRow("wrong type", f"the answer is a {type(answer).__name__}")
    if not isinstance(start, int) or isinstance(start, bool):
        raise InvalidRow("wrong type", f"the answer's start is a {type(start).__name__}")
    if start >= 0 and not passage.startswith(answer, start):
        raise InvalidRow("answer outside its context", f"at {start}: {answer}")


def records_of_table(table: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The records of an Arrow table or record batch; an error in place of one that is not valid UTF-8.

    Raises:
        pyarrow.ArrowInvalid: the table's own structure is damaged.
    """
    for column in table.columns:
        _check_structure(column)
    columns = {name: _values(table.column(location)) for location, name in enumerate(table.schema.names)}
    for row in range(table.num_rows):
        record = {name: values[row] for name, values in columns.items()}
        broken = next((value for value in record.values() if isinstance(value, UnicodeDecodeError)), None)
        yield record if broken is None else broken


def _check_structure(column: Any) -> None:
    """Raises ArrowInvalid for offsets that point outside their data: to read there would end the process."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):  # offsets come first; texts are looked at one by one
            raise


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
    except (ValueError, OverflowError):  # such as a date beyond Python's: no text in any case
        return scalar


def present_columns(columns: Mapping[str, str], names: Collection[str]) -> list[str]:
    """The columns worth reading, in the order of the file."""
    return [name for name in names if name in columns.values()]


def _negatives_of(record: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = record.get(column)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRow("wrong type", f"{column!r} is a {type(value).__name__}, not a list")
    return tuple(_checked_text(negative, column) for negative in value)


def _checked_text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise InvalidRow("wrong type", f"{column!r} is a {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, as JSON may hold
        raise InvalidRow("wrong encoding", error) from None
    return value
