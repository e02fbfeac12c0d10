"""Question answering sets in SQuAD's format as benchmarks: the passages are the sentences of the paragraphs.

As in LAReQA (Roy et al. 2020, arXiv 2004.05484, section 3.1):

- The passages of a language are all sentences of all its paragraphs; equal sentences are separate passages.
- A question's answer is the sentence in which its first answer begins.
- Questions with the same id are translations, and the answer's sentence in every language is relevant to each.

Questions on one paragraph, in any language, are one cluster: they are not independent.

An answer that is not the text at its offset is rejected, because the sentence there would be wrong. Sentences are the
`sentence_breaks` of a paragraph, which LAReQA publishes; a paragraph without them is split by `split_sentences`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ValidationError

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.corpora.file_discovery import language_files
from hbt_ray.data.text_files import READ_ERRORS, UNANSWERABLE, id_text, read_bytes
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError

Span = tuple[int, int]  # [start, end), in characters


class Answer(BaseModel):
    answer_start: int  # offset in the context, in characters
    text: str | None = None


class Question(BaseModel):
    id: Annotated[str, BeforeValidator(id_text)]
    question: str
    answers: list[Answer] = []
    is_impossible: bool = False  # SQuAD 2.0: the paragraph does not answer it


class Paragraph(BaseModel):
    context: str
    sentence_breaks: list[Span] | None = None
    qas: list[Question]

    def answerable(self) -> list[Question]:
        """Return the questions that are not marked as impossible to answer."""
        return [question for question in self.qas if not question.is_impossible]

    def sentence_spans(self, language: str) -> list[Span]:
        """Return the span of each sentence in the context."""
        return split_sentences(self.context, language) if self.sentence_breaks is None else self.sentence_breaks


class Article(BaseModel):
    paragraphs: list[Paragraph]


class Document(BaseModel):
    data: list[Article]


class SentenceBenchmark:
    """Builds a benchmark of sentences from paragraphs and questions of several languages, aligned by question id.

    Query ids are `<language>:<question id>`, passage ids `<language>:<paragraph>:<sentence>`; both numbers count from
    0, paragraphs in the order in which they are added.
    """

    def __init__(self, name: str, options: ReadOptions) -> None:
        self.builder = BenchmarkBuilder(name)
        self.options = options
        # (language, context) -> spans of the sentences, and their passage ids
        self._paragraphs: dict[tuple[str, str], tuple[list[Span], list[str]]] = {}
        self._num_paragraphs: dict[str, int] = defaultdict(int)  # by language
        self._relevant: dict[str, dict[str, str]] = defaultdict(dict)  # question id -> language -> passage id
        self._rejected: set[tuple[str, str]] = set()  # (language, question id) without a usable answer

    def add_paragraph(self, paragraph: Paragraph, language: str, location: str, *, may_repeat: bool = False) -> None:
        """Add the sentences of a paragraph as passages, and find the answers of its questions.

        Args:
            paragraph: with questions in any language.
            language: of its context.
            location: for rejects.
            may_repeat: a paragraph with an equal context was perhaps added before; its sentences are then used.
        """
        key = language, paragraph.context
        if not (may_repeat and key in self._paragraphs):
            self._paragraphs[key] = self._add_sentences(paragraph, language, location)
        spans, passage_ids = self._paragraphs[key]
        for question in paragraph.qas:
            if question.is_impossible and (language, question.id) not in self._rejected:
                self._rejected.add((language, question.id))
                self.builder.reject(f"{location} {question.id}", UNANSWERABLE, question.question)
        for question in paragraph.answerable():
            self.builder.link_question(question.id, language, paragraph.context)
            sentence, reason = _answer_sentence(paragraph.context, spans, question)
            if sentence is not None:
                self._relevant[question.id].setdefault(language, passage_ids[sentence])
            elif (language, question.id) not in self._rejected:
                self._rejected.add((language, question.id))
                self.builder.reject(f"{location} {question.id}", reason)

    def _add_sentences(self, paragraph: Paragraph, language: str, location: str) -> tuple[list[Span], list[str]]:
        number = self._num_paragraphs[language]
        self._num_paragraphs[language] += 1
        self.builder.contexts.append(paragraph.context)
        spans = paragraph.sentence_spans(language)
        passage_ids = [f"{language}:{number:05}:{sentence:03}" for sentence in range(len(spans))]
        for passage_id, (start, end) in zip(passage_ids, spans, strict=True):
            text = paragraph.context[start:end].strip()
            if self.options.with_paragraph:
                text = f"{text} {paragraph.context}"
            self.builder.add_passage(passage_id, language, text, location=location)
        return spans, passage_ids

    def add_question(self, question: Question, language: str, location: str) -> None:
        """Add a question as a query."""
        query_id = f"{language}:{question.id}"
        self.builder.add_query(query_id, language, question.question, location=location, group=question.id)

    def build(self, split: str = "") -> Benchmark:
        """Return the benchmark, with the answers of all languages as judgements of each query."""
        for query in self.builder.queries:
            for language, passage_id in self._relevant.get(query.group, {}).items():
                self.builder.add_judgement(query.query_id, passage_id, 1, language=language, location=query.query_id)
        return self.builder.build(judged_only=False, split=split)


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read every language of a folder of `<language>.json[.gz]`.

    Raises:
        CorpusError: the folder does not exist, has no such file, or one of them is not in this format.
    """
    sentences = SentenceBenchmark(name, options)
    for language, path in language_files(name, folder, (".json", ".json.gz"), options.languages).items():
        for paragraph in paragraphs_of(path):
            sentences.add_paragraph(paragraph, language, path.name)
            for question in paragraph.answerable():
                sentences.add_question(question, language, path.name)
    return sentences.build()


def paragraphs_of(path: Path) -> list[Paragraph]:
    """Return every paragraph of a file. Raises CorpusError if it cannot be read as SQuAD."""
    try:
        document = Document.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise CorpusError(f"{str(path)!r} is not SQuAD: {key + ': ' if key else ''}{first['msg']}") from None
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {str(path)!r} ({reason}); fetch it again") from None
    return [paragraph for article in document.data for paragraph in article.paragraphs]


def split_sentences(text: str, language: str) -> list[Span]:
    """Return the span of each sentence, without the white space around it.

    The library `sentencex` knows the abbreviations and punctuation of about 250 languages, and uses those of a related
    language for others. Thai has no punctuation at the end of a sentence; it is split at some of its spaces.

    >>> split_sentences("Dr. Wu came. Why? ", "en")
    [(0, 12), (13, 17)]
    """
    import sentencex  # not at the top, because most sets have sentence breaks

    spans = []
    for boundary in sentencex.get_sentence_boundaries(language, text):
        start, end = boundary["start_index"], boundary["end_index"]
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            start += sentence.index(stripped)
            spans.append((start, start + len(stripped)))
    return spans


def _answer_sentence(context: str, spans: list[Span], question: Question) -> tuple[int | None, str]:
    """Return the index of the answer's sentence in the paragraph; (None, reason) if there is none."""
    if not question.answers:
        return None, "answer in no sentence"
    begin, text = question.answers[0].answer_start, question.answers[0].text or ""
    if context[begin : begin + len(text)] != text:
        return None, "answer not at its offset"
    sentence = next((index for index, (start, end) in enumerate(spans) if start <= begin < end), None)
    return sentence, "answer in no sentence"


READER = BenchmarkReader(read_benchmark, has_paragraphs=True)
