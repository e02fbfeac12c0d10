"""Rows of corpora, and retrieval benchmarks: the values that readers return."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import overload


def benchmark_title(name: str, *splits: str) -> str:
    """Return the name of a benchmark with the splits that are known, for people.

    >>> benchmark_title("embedded", ""), benchmark_title("embedded", "small")
    ('embedded', 'embedded (small)')
    """
    known = ", ".join(filter(None, splits))
    return f"{name} ({known})" if known else name


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One item of a corpus in one language.

    Rows of one source with the same `item_id` are translations of each other.
    """

    source: str
    item_id: str
    language: str
    question: str | None  # None: a row of plain text
    passage: str
    negatives: tuple[str, ...] = ()  # passages that do not answer the question, in the row's language
    location: str = ""  # where it was read: "de.jsonl.gz:17"
    answer: str | None = None  # the words of the passage that answer the question, if the corpus marks them
    answer_start: int = -1  # their offset in the passage, in characters; -1: unknown


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """An entry of a file that could not be used, or that has a fault."""

    source: str
    location: str  # where it was read: "de.jsonl.gz:17"
    reason: str  # one of a few fixed phrases, so that rejects can be counted: "broken JSON"
    detail: str = ""  # the content that was refused

    def record(self) -> dict[str, str]:
        """Return the entry of a file of rejects, `rejects.jsonl`."""
        return {"source": self.source, "place": self.location, "reason": self.reason, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Query:
    query_id: str
    language: str
    text: str
    group: str = ""  # equal for translations of one question; "" if the benchmark marks no translations
    cluster: str = ""  # equal for questions that are not independent, as those on one paragraph; "": the group
    other_language: str = ""  # of the text, where it is a translation; "": the query's language

    @property
    def text_language(self) -> str:
        """The language of the text."""
        return self.other_language or self.language


@dataclass(frozen=True, slots=True)
class Passage:
    passage_id: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Passages(Sequence[Passage]):
    """A pool of P passages as three columns, which need not be in memory; a passage is made when it is read."""

    ids: Sequence[str]  # (P,)
    languages: Sequence[str]  # (P,)
    texts: Sequence[str]  # (P,)

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Passages:
        """Return the columns of some passages."""
        if isinstance(passages, cls):
            return passages
        columns = [(one.passage_id, one.language, one.text) for one in passages]
        return cls(*([row[column] for row in columns] for column in range(3)))

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Passage: ...

    @overload
    def __getitem__(self, index: slice) -> Passages: ...

    def __getitem__(self, index: int | slice) -> Passage | Passages:
        if isinstance(index, slice):
            return Passages(self.ids[index], self.languages[index], self.texts[index])
        return Passage(self.ids[index], self.languages[index], self.texts[index])

    def __iter__(self) -> Iterator[Passage]:
        return map(Passage, self.ids, self.languages, self.texts)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A retrieval benchmark: queries, a pool of passages, and relevance judgements."""

    name: str  # "xquad-r", the first part of the names of its metrics
    queries: Sequence[Query]
    passages: Sequence[Passage]  # sorted by passage_id, which is unique
    judgements: dict[str, dict[str, int]]  # query_id -> passage_id -> grade, relevant if > 0
    contexts: Sequence[str] = ()  # paragraphs that the passages were cut from; training must not contain them either
    absent: Mapping[str, str] = field(default_factory=dict)  # judged passage_id that the pool lacks -> its language
    excluded: Mapping[str, str] = field(default_factory=dict)  # query_id -> passage_id left out of its ranking
    rejects: Sequence[RejectedRow] = ()  # entries of its files that could not be used, or that have a fault
    split: str = ""  # of the files that were read; "" if the benchmark has no splits
    columns: Passages = field(init=False, repr=False, compare=False)  # the passages

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", Passages.of(self.passages))

    @property
    def title(self) -> str:
        """The name with the split, for people."""
        return benchmark_title(self.name, self.split)

    @property
    def texts(self) -> list[str]:
        """All texts that training must not contain."""
        return [*(q.text for q in self.queries), *self.columns.texts, *self.contexts]

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with any text, id or judgement.

        Token stores are named by it, so what is hashed must stay the same if a class or field is renamed. The cluster
        of a query and the language of its text follow from the rest, and are not hashed.
        """
        entries = chain(
            (
                f"Query(query_id={q.query_id!r}, language={q.language!r}, text={q.text!r}, group={q.group!r})"
                for q in self.queries
            ),
            (f"Passage(passage_id={p.passage_id!r}, language={p.language!r}, text={p.text!r})" for p in self.passages),
            map(repr, sorted(self.judgements.items())),
            map(repr, self.contexts),
            map(repr, sorted(self.excluded.items())),
        )
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(entry.encode())
        return digest.hexdigest()[:16]

    @property
    def languages(self) -> list[str]:
        """The languages of queries and passages, sorted."""
        return sorted({q.language for q in self.queries}.union(self.columns.languages))
