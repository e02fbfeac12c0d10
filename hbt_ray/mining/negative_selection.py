"""Selection of hard negatives: the passages that a model ranks first for a question, without known positives.

Known positives of a question are its gold passage and near-duplicates of it, and the passages of all items that share a
text, question or passage in any language, with its item: if two items have the same English passage, their German
passages are parallel. Texts are the same if `normalize_for_matching` maps them to one text.

Legend: N questions of a language, each with its gold passage; P candidate passages of the language, the pool, each
distinct text once; D width; K negatives per question; M pairs of an item and a text that another item has too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from hbt_ray.config import MineConfig
from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.retrieval.faiss_index import top_k
from hbt_ray.utils.counter_rng import stable_hash64

_QUESTIONS_PER_BLOCK = 4096  # whose candidate lists are in memory together


def text_keys(side: str, texts: Sequence[str]) -> np.ndarray:
    """Return a key for each text, equal for the same texts of a side ("question" or "passage"): (T,) uint64."""
    return np.array([stable_hash64(side, normalize_for_matching(text)) for text in texts], np.uint64)


def shared_texts(items: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the items that have a text in common with another item.

    Args:
        items: (T,) int64, the item of each text.
        keys: (T,) uint64, equal for texts that are the same.

    Returns:
        Items and the numbers of their shared texts, both (M,) int64: sorted pairs without repetition.
    """
    order = np.lexsort((items, keys))
    items, keys = items[order], keys[order]
    is_first = np.ones(len(items), bool)
    is_first[1:] = (items[1:] != items[:-1]) | (keys[1:] != keys[:-1])
    items, keys = items[is_first], keys[is_first]
    _, texts, counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_shared = counts[texts] > 1
    items, texts = items[is_shared], texts[is_shared]
    order = np.lexsort((texts, items))
    return items[order], texts[order]


def candidate_pool(keys: np.ndarray, is_candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collect the candidate passages, each distinct text once.

    Args:
        keys: (N,) of passages, as `text_keys` gives them.
        is_candidate: (N,) bool, which of them may be negatives.

    Returns:
        The row of each distinct text's first passage, ascending (P,); and the pool index of every row's passage, -1
        where it is not in the pool (N,).
    """
    candidates = np.flatnonzero(is_candidate)
    rows = np.sort(candidates[np.unique(keys[candidates], return_index=True)[1]])
    index_of = dict(zip(keys[rows].tolist(), range(len(rows)), strict=True))
    return rows, np.array([index_of.get(key, -1) for key in keys.tolist()], np.int64)


class KnownPositives:
    """Finds a question's known positives in the pool: its gold passage, and those of items with a common text."""

    def __init__(self, shared_items: np.ndarray, texts: np.ndarray, items: np.ndarray, gold: np.ndarray) -> None:
        """Index the shared texts by question.

        Args:
            shared_items: (M,) see `shared_texts`.
            texts: (M,) see `shared_texts`.
            items: (N,) of the questions.
            gold: (N,) pool indices of their gold passages, -1 for a passage that is not in the pool.
        """
        self._gold = gold
        self._texts = texts
        self._begins = np.searchsorted(shared_items, items, "left")
        self._ends = np.searchsorted(shared_items, items, "right")
        counts = np.where(gold >= 0, self._ends - self._begins, 0)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        texts_of_gold = texts[np.repeat(self._begins, counts) + offsets]
        order = np.argsort(texts_of_gold, kind="stable")
        self._listed_texts = texts_of_gold[order]
        self._listed_gold = np.repeat(gold, counts)[order]

    def of(self, row: int) -> np.ndarray:
        """Return pool indices, unordered and possibly repeated; -1 for a gold passage that is not in the pool."""
        texts = self._texts[self._begins[row] : self._ends[row]]
        begins = np.searchsorted(self._listed_texts, texts, "left")
        ends = np.searchsorted(self._listed_texts, texts, "right")
        others = [self._listed_gold[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate([self._gold[row : row + 1], *others])


def hard_negatives(
    queries: np.ndarray,
    positive_scores: np.ndarray,
    pool: np.ndarray,
    settings: MineConfig,
    known: Callable[[int], np.ndarray],
    is_near: Callable[[int, int], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """Select the highest-ranked passages of each question that are not known positives.

    1. List the first `depth` passages of the question, without its known positives.
    2. Skip the first `skip_first`, and those with a score above `margin` times that of the gold passage ("percentage of
       positive" of Moreira et al. 2024, NV-Retriever, arXiv 2407.15831). Both are at the head of the list, so the
       longer one counts.
    3. Take the next K, without near-duplicates of the gold passage.

    Args:
        queries: (N, D) float32.
        positive_scores: (N,) of the questions with their gold passages.
        pool: (P, D) float32; of equal scores the passage with the greater pool index ranks first.
        settings: negatives, depth, skip_first and margin.
        known: row of a question -> pool indices of its known positives.
        is_near: (row, pool index) -> whether the gold passage of the row and the candidate are near-duplicates.

    Returns:
        Pool indices (N, K) int64, padded with -1, and scores (N, K) float32, padded with NaN.
    """
    negatives = np.full((len(queries), settings.negatives), -1, np.int64)
    scores = np.full(negatives.shape, np.nan, np.float32)
    for first in range(0, len(queries) if len(pool) else 0, _QUESTIONS_PER_BLOCK):
        found = top_k(queries[first : first + _QUESTIONS_PER_BLOCK], pool, settings.depth)
        for row, (listed_scores, listed) in enumerate(zip(*found, strict=True), start=first):
            unknown = np.flatnonzero(~np.isin(listed, known(row)))
            max_score = np.inf if settings.margin is None else settings.margin * positive_scores[row]
            is_above = listed_scores[unknown] > max_score
            taken = unknown[_take(listed[unknown], is_above, settings, functools.partial(is_near, row))]
            negatives[row, : len(taken)], scores[row, : len(taken)] = listed[taken], listed_scores[taken]
    return negatives, scores


def _take(
    candidates: np.ndarray, is_above_margin: np.ndarray, settings: MineConfig, is_near: Callable[[int], bool]
) -> list[int]:
    """Return the positions of the negatives in a question's list of candidates."""
    skipped = 0
    taken: list[int] = []
    for position, candidate in enumerate(candidates.tolist()):
        if (skipped == settings.skip_first and is_above_margin[position]) or is_near(candidate):
            continue
        if skipped < settings.skip_first:
            skipped += 1
            continue
        taken.append(position)
        if len(taken) == settings.negatives:
            break
    return taken
