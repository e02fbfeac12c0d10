"""SQuAD: a folder of `<language>.json[.gz]`, questions with the same id being translations of each other.

Where a paragraph has `sentence_breaks`, as in LAReQA's sets, a question's passage is the sentence in which its
answer begins; otherwise it is the whole context. Of several answers the first counts.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import list_language_parts
from hbt_ray.data.corpora.record_parsing import InvalidRow, check_answer, id_of, reject, text_of
from hbt_ray.data.types import CorpusRow, RejectedRow

_SUFFIXES = (".json", ".json.gz")


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """One part per language, sorted. Raises CorpusError when there is none, or a language is missing."""
    return list_language_parts(corpus, _SUFFIXES, {})


def read_shard(part: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """One row or reject per question; a location such as "de.json.gz:data[3].paragraphs[0].qas[2]" finds it again."""
    path = Path(part.location)
    try:
        document = _load(path)
    except InvalidRow as bad:
        yield bad.at(part.source, path.name)
        return
    for found in _leaves(part, f"{path.name}:", document, ("data", "paragraphs", "qas")):
        if isinstance(found, RejectedRow):
            yield found
            continue
        location, paragraph, question = found
        try:
            yield _row(part, location, paragraph, question)
        except InvalidRow as bad:
            yield bad.at(part.source, location)


def _load(path: Path) -> object:
    try:
        raw = path.read_bytes()
        return json.loads((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRow("unreadable file", f"not UTF-8: {error}") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InvalidRow("unreadable file", error) from None


def _leaves(
    part: CorpusShard, location: str, value: Any, keys: tuple[str, ...], parent: Any = None
) -> Iterator[tuple[str, Any, Any] | RejectedRow]:
    """What stands under `keys`, one list within another: its location, the object its list is in, and itself."""
    if not keys:
        yield location.rstrip("."), parent, value
        return
    key, *rest = keys
    members = value.get(key) if isinstance(value, dict) else None
    if not isinstance(members, list):
        yield reject(part.source, location.rstrip(".:"), "not SQuAD", f"no list {key!r}")
        return
    for number, member in enumerate(members):
        yield from _leaves(part, f"{location}{key}[{number}].", member, tuple(rest), value)


def _row(part: CorpusShard, location: str, paragraph: Any, question: Any) -> CorpusRow:
    if not isinstance(question, dict):
        raise InvalidRow("not an object", f"a {type(question).__name__}")
    context = text_of(paragraph, "context", "passage")
    answer, start = _first_answer(question)
    check_answer(context, answer, start)
    passage, start = _passage(context, paragraph.get("sentence_breaks"), start)
    return CorpusRow(
        source=part.source,
        item_id=id_of(question, "id"),
        language=str(part.language),
        question=text_of(question, "question", "question"),
        passage=passage,
        location=location,
        answer=answer,
        answer_start=start,
    )


def _first_answer(question: dict[str, Any]) -> tuple[str | None, int]:
    """The first answer and its start; (None, -1) for a question without answers."""
    answers = question.get("answers") or []
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise InvalidRow("wrong type", "'answers' is not a list of objects")
    if not answers:
        return None, -1
    text, start = answers[0].get("text"), answers[0].get("answer_start", -1)
    if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
        raise InvalidRow("wrong type", "an answer needs a 'text' and a whole number 'answer_start'")
    return text, start


def _passage(context: str, breaks: object, start: int) -> tuple[str, int]:
    """The passage, and where in it the answer begins that begins at `start` in the context."""
    if breaks is None or start < 0:
        return context, start
    if not isinstance(breaks, list) or not all(_is_span(span) for span in breaks):
        raise InvalidRow("wrong type", "'sentence_breaks' is not a list of [start, end]")
    for begin, end in breaks:
        if begin <= start < end:
            sentence = context[begin:end]
            blanks = len(sentence) - len(sentence.lstrip())
            return sentence.strip(), start - begin - blanks
    raise InvalidRow("answer in no sentence", f"at {start}")


def _is_span(span: object) -> bool:
    return (
        isinstance(span, list) and len(span) == 2 and all(type(edge) is int for edge in span) and 0 <= span[0] < span[1]
    )
