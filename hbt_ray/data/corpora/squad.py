"""SQuAD: a folder of `<language>.json[.gz]`; questions with the same id are translations of each other.

If a paragraph has `sentence_breaks`, as in LAReQA's sets, a question's passage is the sentence in which its answer
begins; otherwise it is the whole context. Only the first of several answers is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hbt_ray.config import CorpusConfig
from hbt_ray.data.corpora.base import CorpusShard
from hbt_ray.data.corpora.file_discovery import language_files, language_shard
from hbt_ray.data.corpora.record_parsing import (
    InvalidRow,
    Record,
    load_document,
    parse_answer,
    parse_id,
    parse_text,
    record_of,
    whole_number,
)
from hbt_ray.data.text_files import (
    UNANSWERABLE,
    is_unanswerable,
    rejected_row,
)
from hbt_ray.data.types import CorpusRow, RejectedRow

_LISTS = ("data", "paragraphs", "qas")  # the lists of a document, from the outermost inwards


def list_shards(corpus: CorpusConfig) -> list[CorpusShard]:
    """List a shard for each language, sorted. Raises CorpusError if there is none, or a language is missing."""
    by_language = language_files(corpus.name, corpus.path, (".json", ".json.gz"), corpus.languages)
    return [language_shard(corpus, file, language) for language, file in by_language.items()]


def read_shard(shard: CorpusShard) -> Iterator[CorpusRow | RejectedRow]:
    """Yield a row or reject for each question, located as "de.json.gz:data[3].paragraphs[0].qas[2]"."""
    path = Path(shard.location)
    try:
        document = load_document(path)
    except InvalidRow as invalid:
        yield invalid.reject(shard.source, path.name)
        return
    for entry in _questions_of(shard, f"{path.name}:", document, _LISTS):
        if isinstance(entry, RejectedRow):
            yield entry
            continue
        location, paragraph, question = entry
        try:
            yield _parse_question(shard, location, paragraph, question)
        except InvalidRow as invalid:
            yield invalid.reject(shard.source, location)


def _questions_of(
    shard: CorpusShard, location: str, value: object, keys: tuple[str, ...], parent: object = None
) -> Iterator[tuple[str, object, object] | RejectedRow]:
    """Yield (location, parent, value) of each element of nested lists; a reject for a list that is missing.

    Args:
        shard: for rejects.
        location: of the value.
        value: an object that has a list under the first key; an element if there are no keys.
        keys: of the lists, from the outermost inwards.
        parent: the object that has the list which the value is in.
    """
    if not keys:
        yield location.rstrip("."), parent, value
        return
    key, *rest = keys
    elements = value.get(key) if isinstance(value, dict) else None
    if not isinstance(elements, list):
        yield rejected_row(shard.source, location.rstrip(".:"), "not SQuAD", f"no list {key!r}")
        return
    for index, element in enumerate(elements):
        yield from _questions_of(shard, f"{location}{key}[{index}].", element, tuple(rest), value)


def _parse_question(shard: CorpusShard, location: str, paragraph: object, question: object) -> CorpusRow:
    fields, paragraph_fields = record_of(question), record_of(paragraph)
    if is_unanswerable(fields):
        raise InvalidRow(UNANSWERABLE, fields.get("question"))
    context = parse_text(paragraph_fields, "context", "passage")
    answer, start = parse_answer(context, *_first_answer(fields))
    passage, start = _select_passage(context, paragraph_fields.get("sentence_breaks"), start)
    return CorpusRow(
        source=shard.source,
        item_id=parse_id(fields, "id"),
        language=str(shard.language),
        question=parse_text(fields, "question", "question"),
        passage=passage,
        location=location,
        answer=answer,
        answer_start=start,
    )


def _first_answer(question: Record) -> tuple[str | None, int]:
    """Return the first answer and its offset in the context; (None, -1) for a question without answers."""
    answers = question.get("answers") or []
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise InvalidRow("wrong type", "'answers' is not a list of objects")
    if not answers:
        return None, -1
    text, start = answers[0].get("text"), whole_number(answers[0].get("answer_start", -1))
    if not isinstance(text, str) or start is None:
        raise InvalidRow("wrong type", "an answer needs a 'text' and a whole number 'answer_start'")
    return text, start


def _select_passage(context: str, breaks: object, start: int) -> tuple[str, int]:
    """Return the passage of an answer that begins at `start` in the context, and the answer's offset in it."""
    if breaks is None or start < 0:
        return context, start
    if not isinstance(breaks, list) or not all(_is_span(span) for span in breaks):
        raise InvalidRow("wrong type", "'sentence_breaks' is not a list of [start, end]")
    for begin, end in breaks:
        if begin <= start < end:
            sentence = context[begin:end]
            leading_blanks = len(sentence) - len(sentence.lstrip())
            return sentence.strip(), start - begin - leading_blanks
    raise InvalidRow("answer in no sentence", f"at {start}")


def _is_span(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(edge) is int for edge in value)
        and 0 <= value[0] < value[1]
    )
