"""The passages that a model finds first for a question, but for those known to answer it.

Known to answer are a question's own passage and its near-duplicates, and the passages of all items that share a text
with its own, a question or a passage in any language: where two items have one English passage, their German ones say
the same. Texts are the same where `normalize_for_matching` makes them so.

Legend: N questions of a language, each with its own passage; P passages of the language that are searched, equal ones
once, in the columns of its pool; D width; K negatives asked for; M pairs of an item and a text that others
have, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from hbt_ray.config import MineConfig
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.retrieval.faiss_index import top_k
from hbt_ray.utils.counter_rng import stable_hash64

_QUESTIONS_AT_ONCE = 4096  # whose lists are held together


def text_keys(side: str, texts: Sequence[str]) -> np.ndarray:
    """(T,) uint64, equal for texts of a side, question or passage, that are the same."""
    return np.array([stable_hash64(side, normalize_for_matching(text)) for text in texts], np.uint64)


def shared_texts(items: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which items have a text that another has as well.

    Args:
        items: (T,) int64, the item of each text.
        keys: (T,) uint64, equal for texts that are the same.

    Returns:
        items and the numbers of such texts, both (M,) int64, pair by pair, sorted, each pair once.
    """
    order = np.lexsort((items, keys))
    items, keys = items[order], keys[order]
    new = np.ones(len(items), bool)
    new[1:] = (items[1:] != items[:-1]) | (keys[1:] != keys[:-1])
    items, keys = items[new], keys[new]
    _, texts, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = counts[texts] > 1
    items, texts = items[several], texts[several]
    order = np.lexsort((texts, items))
    return items[order], texts[order]


def pool_of(keys: np.ndarray, searched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The passages that are searched, equal ones once.

    Args:
        keys: (N,) of passages, as `text_keys` gives them.
        searched: (N,) bool, which of them may be found.

    Returns:
        rows (P,) of the first of each, ascending, and columns (N,) of every row's passage, -1 where it is in none.
    """
    candidates = np.flatnonzero(searched)
    rows = np.sort(candidates[np.unique(keys[candidates], return_index=True)[1]])
    column_of = dict(zip(keys[rows].tolist(), range(len(rows)), strict=True))
    return rows, np.array([column_of.get(key, -1) for key in keys.tolist()], np.int64)


class KnownPositives:
    """The columns that answer each of N questions: of its own passage, and of items that share a text with its own."""

    def __init__(self, shared_items: np.ndarray, texts: np.ndarray, items: np.ndarray, columns: np.ndarray) -> None:
        """
        Args:
            shared_items, texts: (M,) as `shared_texts` gives them.
            items: (N,) of the questions.
            columns: (N,) of their own passages, -1 for one in no column.
        """
        self._columns = columns
        self._texts = texts
        self._begins = np.searchsorted(shared_items, items, "left")
        self._ends = np.searchsorted(shared_items, items, "right")
        counts = np.where(columns >= 0, self._ends - self._begins, 0)
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        of_columns = texts[np.repeat(self._begins, counts) + steps]
        order = np.argsort(of_columns, kind="stable")
        self._listed_texts = of_columns[order]
        self._listed_columns = np.repeat(columns, counts)[order]

    def of(self, row: int) -> np.ndarray:
        """Columns, in no order, some of them twice; -1 for an own passage in no column."""
        own = self._texts[self._begins[row] : self._ends[row]]
        begins = np.searchsorted(self._listed_texts, own, "left")
        ends = np.searchsorted(self._listed_texts, own, "right")
        others = [self._listed_columns[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate([self._columns[row : row + 1], *others])


def hard_negatives(
    queries: np.ndarray,
    own_scores: np.ndarray,
    pool: np.ndarray,
    settings: MineConfig,
    known: Callable[[int], np.ndarray],
    is_near: Callable[[int, int], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """The first passages of each question that are not known to answer it.

    Of those, the first `skip_first` are passed over, and those with a score above `margin` times that of the question's
    own passage ("percentage of positive" in Moreira et al. 2024, NV-Retriever, arXiv 2407.15831). Both stand at the
    head of the list, so what is taken begins behind the longer one.

    Args:
        queries: (N, D) float32.
        own_scores: (N,) of the questions with their own passages.
        pool: (P, D) float32; of equal scores the passage in the greater column comes first.
        known: the columns that answer the question in a row.
        is_near: whether the passage of a row and that of a column are near-duplicates.

    Returns:
        columns (N, K) int64, -1 behind the last one, and scores (N, K) float32, NaN there.
    """
    columns = np.full((len(queries), settings.negatives), -1, np.int64)
    scores = np.full(columns.shape, np.nan, np.float32)
    for first in range(0, len(queries) if len(pool) else 0, _QUESTIONS_AT_ONCE):
        found = top_k(queries[first : first + _QUESTIONS_AT_ONCE], pool, settings.depth)
        for row, (line, listed) in enumerate(zip(*found, strict=True), start=first):
            left = np.flatnonzero(~np.isin(listed, known(row)))
            most = np.inf if settings.margin is None else settings.margin * own_scores[row]
            taken = left[_taken(listed[left], line[left] > most, settings, functools.partial(is_near, row))]
            columns[row, : len(taken)], scores[row, : len(taken)] = listed[taken], line[taken]
    return columns, scores


def _taken(columns: np.ndarray, above: np.ndarray, settings: MineConfig, is_near: Callable[[int], bool]) -> list[int]:
    """Places in a question's list, without known answers, of what is taken; `above` is what the margin forbids."""
    skipped = 0
    taken: list[int] = []
    for place, column in enumerate(columns.tolist()):
        if (skipped == settings.skip_first and above[place]) or is_near(column):
            continue
        if skipped < settings.skip_first:
            skipped += 1
            continue
        taken.append(place)
        if len(taken) == settings.negatives:
            break
    return taken
