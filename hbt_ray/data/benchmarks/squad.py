"""Sets in SQuAD's format as retrieval sets: the sentences of their paragraphs are the passages.

LAReQA (Roy et al. 2020, arXiv 2004.05484, section 3.1): the candidates of a language are all sentences of all its
paragraphs, equal ones each counted; a question's answer is the sentence in which its first answer begins.
Questions with the same id are translations, and the answer's sentence in every language is relevant to each.

An answer whose text does not stand where it should begin is none: the sentence there would be a wrong one.
Sentences are those of `sentence_breaks`, as LAReQA publishes them, and where there are none those of `sentence_spans`.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hbt_ray.config import CorpusConfig
from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.sentence_splitting import sentence_spans
from hbt_ray.data.corpora.file_discovery import list_language_parts
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError


class Answer(BaseModel):
    answer_start: int  # characters from the start of the context
    text: str | None = None  # what stands there


class Question(BaseModel):
    id: str
    question: str
    answers: list[Answer]


class Paragraph(BaseModel):
    context: str
    sentence_breaks: list[tuple[int, int]] | None = None  # [start, end) in characters of the context
    qas: list[Question]

    def sentences(self, language: str) -> list[tuple[int, int]]:
        """[start, end) of each sentence."""
        return sentence_spans(self.context, language) if self.sentence_breaks is None else self.sentence_breaks


class Article(BaseModel):
    paragraphs: list[Paragraph]


class Document(BaseModel):
    data: list[Article]


class SentenceSet:
    """Gathers paragraphs, language by language, and aligns their questions by id."""

    def __init__(self, name: str, options: ReadOptions) -> None:
        self.builder = BenchmarkBuilder(name)
        self.options = options
        self._paragraphs: dict[tuple[str, str], tuple[list[tuple[int, int]], list[str]]] = {}
        self._numbers: dict[str, int] = defaultdict(int)
        self._relevant: dict[str, dict[str, str]] = defaultdict(dict)  # question id -> language -> passage id
        self._unanswered: set[tuple[str, str]] = set()  # (language, question id) that were noted

    def add_paragraph(self, paragraph: Paragraph, language: str, location: str, *, again: bool = False) -> None:
        """Its sentences as passages, and where its questions' answers stand.

        Args:
            again: a paragraph with the same text may have come before; its sentences are then those.
        """
        key = language, paragraph.context
        if not (again and key in self._paragraphs):
            self._paragraphs[key] = self._add_sentences(paragraph, language, location)
        spans, passage_ids = self._paragraphs[key]
        for question in paragraph.qas:
            sentence, reason = _answer_sentence(paragraph.context, spans, question)
            if sentence is not None:
                self._relevant[question.id].setdefault(language, passage_ids[sentence])
            elif (language, question.id) not in self._unanswered:
                self._unanswered.add((language, question.id))
                self.builder.reject(f"{location} {question.id}", reason)

    def _add_sentences(
        self, paragraph: Paragraph, language: str, location: str
    ) -> tuple[list[tuple[int, int]], list[str]]:
        number = self._numbers[language]
        self._numbers[language] += 1
        self.builder.contexts.append(paragraph.context)
        spans = paragraph.sentences(language)
        passage_ids = [f"{language}:{number:05}:{sentence:03}" for sentence in range(len(spans))]
        for passage_id, (start, end) in zip(passage_ids, spans, strict=True):
            text = paragraph.context[start:end].strip()
            if self.options.with_paragraph:
                text = f"{text} {paragraph.context}"
            self.builder.add_passage(passage_id, language, text, location=location)
        return spans, passage_ids

    def add_question(self, question: Question, language: str, location: str) -> None:
        query_id = f"{language}:{question.id}"
        self.builder.add_query(query_id, language, question.question, location=location, group=question.id)

    def build(self, split: str = "") -> Benchmark:
        for query in self.builder.queries:
            for language, passage_id in self._relevant.get(query.group, {}).items():
                self.builder.add_judgement(query.query_id, passage_id, 1, language=language, location=query.query_id)
        return self.builder.build(judged_only=False, split=split)


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """The benchmark in a folder of `<language>.json[.gz]`.

    Query ids are `<language>:<question id>`, passage ids `<language>:<paragraph>:<sentence>`, both numbers counted
    from 0 in the order of the language's file. Passages are sorted by id, and so are grouped by language.

    Raises:
        CorpusError: the folder is missing, holds no such file, or one of them is not in this format.
    """
    sentences = SentenceSet(name, options)
    languages = None if options.languages is None else tuple(sorted(options.languages))
    corpus = CorpusConfig(format="squad", name=name, path=folder, languages=languages)
    for part in list_language_parts(corpus, (".json", ".json.gz"), {}):
        language, path = str(part.language), Path(part.location)
        for paragraph in paragraphs_of(path):
            sentences.add_paragraph(paragraph, language, path.name)
            for question in paragraph.qas:
                sentences.add_question(question, language, path.name)
    return sentences.build()


def paragraphs_of(path: Path) -> list[Paragraph]:
    """Every paragraph of a file. Raises CorpusError when it cannot be read as SQuAD."""
    try:
        raw = path.read_bytes()
        document = Document.model_validate_json(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except ValidationError as error:
        first = error.errors()[0]
        location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise CorpusError(f"{str(path)!r} is not SQuAD: {location + ': ' if location else ''}{first['msg']}") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {str(path)!r} ({reason}); fetch it again") from None
    return [paragraph for article in document.data for paragraph in article.paragraphs]


def _answer_sentence(context: str, spans: list[tuple[int, int]], question: Question) -> tuple[int | None, str]:
    """The sentence's location in the paragraph, or None and why the question has no answer there."""
    if not question.answers:
        return None, "answer in no sentence"
    begin, text = question.answers[0].answer_start, question.answers[0].text or ""
    if context[begin : begin + len(text)] != text:
        return None, "answer not at its offset"
    sentence = next((number for number, (start, end) in enumerate(spans) if start <= begin < end), None)
    return sentence, "answer in no sentence"
