"""Questions of a report with their results, for error analysis: the worst and some sampled ones of each language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbt_ray.errors import UserError
from hbt_ray.evaluation.question_results import QuestionResults
from hbt_ray.utils.language_codes import spell_code

EXAMPLES = 5  # of each kind and language; fewer where there are many languages
_ALL_EXAMPLES = 60  # of each kind, over all languages


@dataclass(frozen=True, slots=True)
class RelevantPassage:
    """A passage that answers a question."""

    passage_id: str | None  # None: the pool lacks it
    language: str
    text: str
    rank: int | None  # among all passages; None: not found
    language_rank: int | None  # among the passages of its language


@dataclass(frozen=True, slots=True)
class ListedPassage:
    """One of the first passages of a question's ranking."""

    passage_id: str
    language: str
    text: str
    score: float
    is_relevant: bool


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """A question, its relevant passages, those in its language first, and the first passages of its ranking."""

    query_id: str
    language: str
    text: str
    average_precision: float  # in the pool of all languages
    relevant: tuple[RelevantPassage, ...]
    listed: tuple[ListedPassage, ...]

    @property
    def best(self) -> RelevantPassage | None:
        """The relevant passage to show: of the question's language if there is one, with the best rank."""
        return self.relevant[0] if self.relevant else None

    @property
    def ranks_by_language(self) -> list[tuple[str, int | None]]:
        """The best rank among all passages of a relevant passage in each language, the best language first."""
        best: dict[str, int | None] = {}
        for one in sorted(self.relevant, key=lambda one: (_last(one.rank), one.language)):
            best.setdefault(one.language, one.rank)
        return list(best.items())


class QuestionCollection:
    """The questions of a report."""

    def __init__(self, results: QuestionResults) -> None:
        """Read the columns that choose questions; a question's texts are read when it is shown."""
        self._results = results
        self._query_ids = results.questions["query_id"].to_pylist()
        self._languages = np.array(results.questions["language"].to_pylist(), object)
        self._precision = results.questions["average_precision"].to_numpy()
        self._has_relevant = np.array([len(ids) > 0 for ids in results.questions["relevant_ids"].to_pylist()], bool)

    @property
    def languages(self) -> list[str]:
        """The languages of the questions, sorted."""
        return sorted(set(self._languages.tolist()))

    @property
    def examples(self) -> int:
        """How many questions of each kind and language are shown together with those of other languages."""
        return min(EXAMPLES, max(1, _ALL_EXAMPLES // len(self.languages)))

    def worst(self, language: str, count: int) -> list[QuestionResult]:
        """Return the questions with the lowest average precision that have a relevant passage; ties go by id."""
        rows = self._rows(language)
        return [self._question(row) for row in sorted(rows, key=lambda row: self._precision[row])[:count]]

    def sampled(self, language: str, count: int) -> list[QuestionResult]:
        """Return evenly spaced questions in the order of their ids, so that translations are sampled together."""
        rows = self._rows(language)
        chosen: list[int] = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)).tolist()
        return [self._question(rows[number]) for number in chosen]

    def find(self, query_id: str) -> QuestionResult:
        """Return one question. Raise UserError if there is none with this id."""
        if query_id not in self._query_ids:
            raise UserError(f"the report has no question {query_id!r}; its ids are like {self._query_ids[0]!r}")
        return self._question(self._query_ids.index(query_id))

    def check_language(self, language: str) -> str:
        """Return a language in the spelling of the report. Raise UserError if no question is in it."""
        spelled = spell_code(language)
        if spelled not in self.languages:
            raise UserError(f"the report has no question in {language!r}; it has {', '.join(self.languages)}")
        return spelled

    def totals(self, language: str) -> tuple[int, float, float]:
        """Return a language's number of questions, their mAP, and the share with a relevant passage among the first."""
        rows = np.flatnonzero(self._languages == language)
        questions = self._results.questions.take(rows)
        found = [
            not set(listed).isdisjoint(relevant)
            for listed, relevant in zip(
                *(questions[name].to_pylist() for name in ("result_ids", "relevant_ids")), strict=True
            )
        ]
        return len(rows), float(self._precision[rows].mean()), float(np.mean(found))

    def first_languages(self) -> tuple[list[str], np.ndarray]:
        """Count the languages of the first passages: sorted languages of passages, and (question languages, those).

        Each row sums to 1, or to 0 where its questions have no results.
        """
        ids = self._results.questions["result_ids"]
        of_passage = dict(
            zip(*(self._results.passages[name].to_pylist() for name in ("passage_id", "language")), strict=True)
        )
        languages = sorted(set(of_passage.values()))
        column_of, row_of = ({name: n for n, name in enumerate(names)} for names in (languages, self.languages))
        counts = np.zeros((len(row_of), len(languages)))
        for language, listed in zip(self._languages, ids.to_pylist(), strict=True):
            for passage_id in listed:
                counts[row_of[language], column_of[of_passage[passage_id]]] += 1
        return languages, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def _rows(self, language: str) -> list[int]:
        """Return the rows of a language's questions that have a relevant passage, in the order of their ids."""
        rows = np.flatnonzero((self._languages == language) & self._has_relevant).tolist()
        return sorted(rows, key=lambda row: self._query_ids[row])

    @cached_property
    def _row_of_passage(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._results.passages["passage_id"].to_pylist())}

    def _text(self, passage_id: str) -> tuple[str, str]:
        """Return the language and the text of a passage."""
        row = self._row_of_passage[passage_id]
        return tuple(self._results.passages[name][row].as_py() for name in ("language", "text"))

    def _question(self, row: int) -> QuestionResult:
        [values] = self._results.questions.slice(row, 1).to_pylist()
        relevant = [
            RelevantPassage(name, language, "" if name is None else self._text(name)[1], rank, language_rank)
            for name, language, rank, language_rank in zip(
                *(values[f"relevant_{part}"] for part in ("ids", "languages", "ranks", "language_ranks")), strict=True
            )
        ]
        return QuestionResult(
            values["query_id"],
            values["language"],
            values["text"],
            values["average_precision"],
            tuple(
                sorted(relevant, key=lambda one: (one.language != values["language"], _last(one.rank), one.language))
            ),
            tuple(
                ListedPassage(name, *self._text(name), score, name in values["relevant_ids"])
                for name, score in zip(values["result_ids"], values["result_scores"], strict=True)
            ),
        )


def _last(rank: int | None) -> float:
    return np.inf if rank is None else rank
