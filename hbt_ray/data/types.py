"""The values that cross from one stage to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One item in one language, as a corpus reader found it.

    Rows of one source with the same `item_id` are translations of each other.
    """

    source: str
    item_id: str
    language: str
    question: str | None  # None: plain text, which asks nothing
    passage: str
    negatives: tuple[str, ...] = ()  # passages that do not answer the question, in the row's language
    place: str = ""  # where it was read, "de.jsonl.gz:17"
    answer: str | None = None  # what of the passage answers, where the corpus says so
    answer_start: int = -1  # where it begins in the passage; -1: not known


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that could not be used: where it stood and why."""

    source: str
    place: str
    reason: str  # a short fixed phrase, so that rejects can be counted: "broken JSON"
    detail: str = ""  # what was seen there


@dataclass(frozen=True, slots=True)
class Query:
    query_id: str
    language: str
    text: str
    group: str = ""  # the same for translations of one question; "" where there are none


@dataclass(frozen=True, slots=True)
class Passage:
    passage_id: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A retrieval set: queries, the pool of passages, and which passages answer which query."""

    name: str  # "xquad-r", the first part of every metric's name
    queries: Sequence[Query]
    passages: Sequence[Passage]  # sorted by passage_id, each id once
    judgements: dict[str, dict[str, int]]  # query_id -> passage_id -> grade, > 0 is relevant
    contexts: Sequence[str] = ()  # paragraphs that passages were cut from; like them, they must not be trained on
    absent: Mapping[str, str] = field(default_factory=dict)  # judged passages that the pool lacks -> their language
    excluded: Mapping[str, str] = field(default_factory=dict)  # query_id -> the passage that it is, never in its list
    rejects: Sequence[RejectedRow] = ()  # what its files hold that could not be used, or is not as it should be
    split: str = ""  # of the files that were read; "" where there are none

    @property
    def texts(self) -> list[str]:
        """Every text that training must not have seen."""
        return [*(q.text for q in self.queries), *(p.text for p in self.passages), *self.contexts]

    def fingerprint(self) -> str:
        """16 hex digits of every text, id and judgement that is used."""
        sum = hashlib.sha256()
        excluded = sorted(self.excluded.items())
        for text in (*self.queries, *self.passages, *sorted(self.judgements.items()), *self.contexts, *excluded):
            sum.update(repr(text).encode())
        return sum.hexdigest()[:16]

    @property
    def languages(self) -> list[str]:
        """Languages of queries and passages, sorted."""
        return sorted({q.language for q in self.queries} | {p.language for p in self.passages})


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of one global batch that one rank trains on, as token ids without padding.

    Legend: B pairs on this rank, K positives and N negatives per pair; S of the questions are asked in a second
    language as well. Sequences stand one after the other; `*_lengths` says where each ends.
    """

    step: int  # the batch's number in the plan
    first_pair: int  # place of the first of the B pairs in the global batch
    global_pairs: int  # G
    kind: str  # "monolingual", "cross-lingual", "mixed" or "one-to-k"
    query_ids: np.ndarray  # (sum of query_lengths,) int32
    query_lengths: np.ndarray  # (B + S,) int32: the B questions, then the S in a second language
    passage_ids: np.ndarray  # (sum of passage_lengths,) int32
    passage_lengths: np.ndarray  # (B * (K + N),) int32: the K positives of pair 0, of pair 1, ..., then its N negatives
    query_keys: np.ndarray  # (B,) int64, equal where the tokens are equal
    passage_keys: np.ndarray  # (B * (K + N),) int64, likewise
    positives: int = 1  # K
    # (S,) int32, ascending: whose question each in a second language is
    second_of: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def num_pairs(self) -> int:
        return len(self.query_lengths) - len(self.second_of)

    @property
    def num_negatives(self) -> int:
        """Hard negatives per pair."""
        return len(self.passage_lengths) // max(self.num_pairs, 1) - self.positives


@dataclass(frozen=True, slots=True)
class TokenBlockBatch:
    """The blocks of one global batch that one rank is pretrained on: texts without padding, some tokens masked.

    Legend: B blocks on this rank, T tokens of each.
    """

    step: int  # the batch's number in the plan
    first_block: int  # place of the first of the B blocks in the global batch
    global_blocks: int
    ids: np.ndarray  # (B * T,) int32, as the encoder sees them
    targets: np.ndarray  # (B * T,) int32: what stood in the place of a token to be told, -1 everywhere else
    lengths: np.ndarray  # (texts,) int32 of the texts, one after the other; none reaches over a block's end
    texts_per_block: np.ndarray  # (B,) int32

    @property
    def num_blocks(self) -> int:
        return len(self.texts_per_block)

    @property
    def block_tokens(self) -> int:
        return len(self.ids) // self.num_blocks
