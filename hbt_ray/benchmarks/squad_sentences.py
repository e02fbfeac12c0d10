"""Sets in SQuAD's format with `sentence_breaks`, as LAReQA publishes XQuAD-R: the sentences are the passages.

LAReQA (Roy et al. 2020, arXiv 2004.05484, section 3.1): the candidates of a language are all sentences of all its
paragraphs, equal ones each counted; a question's answer is the sentence in which its first answer span begins.
Questions with the same id are translations, and the answer's sentence in every language is relevant to each.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hbt_ray.config import CorpusConfig
from hbt_ray.corpora.files import list_language_parts
from hbt_ray.errors import CorpusError
from hbt_ray.records import Benchmark, Passage, Query


class _Answer(BaseModel):
    answer_start: int  # characters from the start of the context


class _Question(BaseModel):
    id: str
    question: str
    answers: list[_Answer]


class _Paragraph(BaseModel):
    context: str
    sentence_breaks: list[tuple[int, int]]  # [start, end) in characters of the context
    qas: list[_Question]


class _Article(BaseModel):
    paragraphs: list[_Paragraph]


class _Document(BaseModel):
    data: list[_Article]


def read_benchmark(name: str, folder: str, with_paragraph: bool = False) -> Benchmark:
    """The benchmark in a folder of `<language>.json[.gz]`.

    Query ids are `<language>:<question id>`, passage ids `<language>:<paragraph>:<sentence>`, both numbers counted
    from 0 in the order of the language's file. Passages are sorted by id, and so are grouped by language.

    Raises:
        CorpusError: the folder is missing, holds no such file, or one of them is not in this format.
    """
    queries: list[Query] = []
    passages: list[Passage] = []
    contexts: list[str] = []
    relevant: dict[str, list[str]] = defaultdict(list)  # question id -> the passages that answer it, in any language
    for part in list_language_parts(CorpusConfig(format="squad", name=name, path=folder), (".json", ".json.gz"), {}):
        language, path = str(part.language), Path(part.place)
        seen: set[str] = set()
        paragraphs = [paragraph for article in _load(path).data for paragraph in article.paragraphs]
        for number, paragraph in enumerate(paragraphs):
            passage_ids = [f"{language}:{number:05}:{place:03}" for place in range(len(paragraph.sentence_breaks))]
            contexts.append(paragraph.context)
            passages += map(Passage, passage_ids, [language] * len(passage_ids), _texts(paragraph, with_paragraph))
            for question in paragraph.qas:
                if question.id in seen:
                    raise CorpusError(f"{str(path)!r} has two questions with the id {question.id!r}; keep one")
                seen.add(question.id)
                queries.append(Query(f"{language}:{question.id}", language, question.question))
                place = _answer_sentence(paragraph, question)
                if place is not None:
                    relevant[question.id].append(passage_ids[place])
    judgements = {
        query.query_id: dict.fromkeys(relevant[question_id], 1)
        for query in queries
        if (question_id := query.query_id.removeprefix(f"{query.language}:")) in relevant
    }
    passages.sort(key=lambda passage: passage.passage_id)
    return Benchmark(name, queries, passages, judgements, contexts)


def _load(path: Path) -> _Document:
    try:
        raw = path.read_bytes()
        return _Document.model_validate_json(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise CorpusError(
            f"{str(path)!r} is not SQuAD with sentence_breaks: {place + ': ' if place else ''}{first['msg']}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {str(path)!r} ({reason}); fetch it again") from None


def _texts(paragraph: _Paragraph, with_paragraph: bool) -> list[str]:
    sentences = [paragraph.context[start:end].strip() for start, end in paragraph.sentence_breaks]
    return [f"{sentence} {paragraph.context}" for sentence in sentences] if with_paragraph else sentences


def _answer_sentence(paragraph: _Paragraph, question: _Question) -> int | None:
    """The sentence's place in the paragraph, or None for a question without an answer there."""
    if not question.answers:
        return None
    begin = question.answers[0].answer_start
    return next((i for i, (start, end) in enumerate(paragraph.sentence_breaks) if start <= begin < end), None)
