"""A benchmark's judgements as arrays over its queries and passages.

Legend: Q queries, P passages in the order of their ids, R relevant passages of the query that has most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np

from hbt_ray.data.types import Benchmark
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.passage_shard import Span


@dataclass(frozen=True, slots=True)
class RelevantPassages:
    """The relevant passages of each query, (Q, R); where a query has fewer than R: -1, 0 and ""."""

    passage_indices: np.ndarray  # int64; also -1 for a relevant passage that the benchmark's pool lacks
    grades: np.ndarray  # int64, > 0
    passage_languages: np.ndarray  # str, also of passages that the pool lacks

    @classmethod
    def of(cls, benchmark: Benchmark) -> RelevantPassages:
        """Collect the passages with a grade above 0, those that the pool lacks first."""
        index_of = rows_of_ids(benchmark, chain.from_iterable(benchmark.judgements.values()))
        codes = benchmark.columns.languages
        language_of = {key: codes[row] for key, row in index_of.items() if row >= 0} | dict(benchmark.absent)
        judged = [
            sorted((index_of[key], language_of[key], grade) for key, grade in judgements.items() if grade > 0)
            for judgements in (benchmark.judgements.get(query.query_id, {}) for query in benchmark.queries)
        ]
        shape = (len(judged), max(1, *map(len, judged)))
        indices, grades = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
        languages = np.full(shape, "", object)
        for row, relevant in enumerate(judged):
            if relevant:
                of_row = slice(len(relevant))
                indices[row, of_row], languages[row, of_row], grades[row, of_row] = zip(*relevant, strict=True)
        return cls(indices, grades, languages)

    @property
    def is_absent(self) -> np.ndarray:
        """(Q, R) bool, the relevant passages that the pool lacks."""
        absent: np.ndarray = (self.passage_indices < 0) & (self.grades > 0)
        return absent


def rows_of_ids(benchmark: Benchmark, passage_ids: Iterable[str]) -> dict[str, int]:
    """Return passage id -> its index among the benchmark's passages, which are sorted by id; -1 for none."""
    ids = benchmark.columns.ids
    row_of = {key: bisect_left(ids, key) for key in passage_ids}
    return {key: row if row < len(ids) and ids[row] == key else -1 for key, row in row_of.items()}


def excluded_indices(benchmark: Benchmark) -> np.ndarray:
    """Return for each query the index of the passage that is the query's own text, -1 for none: (Q,) int64.

    Such a passage is left out of the query's ranking, as in BEIR's ArguAna and Quora.
    """
    if not benchmark.excluded:
        return np.full(len(benchmark.queries), -1, np.int64)
    row_of = rows_of_ids(benchmark, benchmark.excluded.values())
    return np.array([row_of.get(benchmark.excluded.get(q.query_id, ""), -1) for q in benchmark.queries], np.int64)


def language_spans(benchmark: Benchmark) -> dict[str, Span]:
    """Return each language's passages, languages sorted: a slice where they are contiguous, otherwise an array.

    A language all of whose passages are absent has an empty slice.
    """
    runs = [(key, sum(1 for _ in group)) for key, group in groupby(benchmark.columns.languages)]
    ends = np.cumsum([length for _, length in runs])
    slices: dict[str, list[slice]] = {language: [] for language in benchmark.absent.values()}
    for (language, length), end in zip(runs, ends.tolist(), strict=True):
        slices.setdefault(language, []).append(slice(end - length, end))
    return {language: _join(slices[language]) for language in sorted(slices)}


def _join(slices: Sequence[slice]) -> Span:
    if len(slices) > 1:
        joined: np.ndarray = np.r_[tuple(slices)]
        return joined
    return slices[0] if slices else slice(0, 0)


def remove_excluded(ranks: np.ndarray, is_excluded: np.ndarray) -> np.ndarray:
    """Return the ranks that the relevant passages have once the excluded passage of each query is left out.

    Args:
        ranks: (spans, Q, R + 1), the excluded passage's own rank last, 0 where it is not in the span.
        is_excluded: (Q, R) bool, whether a relevant passage is the excluded one itself: it is never retrieved.

    Returns:
        (spans, Q, R)
    """
    excluded_rank = ranks[..., -1:]
    is_below = (excluded_rank > 0) & (ranks[..., :-1] > excluded_rank)
    remaining: np.ndarray = ranks[..., :-1] - is_below
    remaining[(remaining > 0) & is_excluded] = NOT_RETRIEVED
    return remaining


def mark_absent(ranks: np.ndarray, relevant: RelevantPassages, passage_languages: Sequence[str]) -> None:
    """Write NOT_RETRIEVED into the ranks of relevant passages that the pool lacks, in place.

    Args:
        ranks: (passage languages + 1, Q, R), the pool of all languages last.
        relevant: of the Q queries.
        passage_languages: of the first axis.
    """
    absent = relevant.is_absent
    if not absent.any():
        return
    for number, language in enumerate(passage_languages):
        ranks[number][absent & (relevant.passage_languages == language)] = NOT_RETRIEVED
    ranks[-1][absent] = NOT_RETRIEVED
