"""Selection of hard negatives: the passages that a model ranks first for a question, without known positives.

Known positives of a question are its gold passage and near-duplicates of it, and the passages of all items of its
item's component (see `data/components.py`): if two items have the same English passage, their German passages are
parallel.

Legend: N questions of a language, each with its gold passage; P candidate passages of the language, the pool, each
distinct text once; D width; K negatives per question.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from hbt_ray.config import MineConfig
from hbt_ray.retrieval.exact_search import top_k

_QUESTIONS_PER_BLOCK = 4096  # whose candidate lists are in memory together


def candidate_pool(keys: np.ndarray, is_candidate: np.ndarray) -> np.ndarray:
    """Collect the candidate passages, each distinct text once.

    Args:
        keys: (N,) of passages, as `components.text_key` gives them.
        is_candidate: (N,) bool, which of them may be negatives.

    Returns:
        The row of each distinct text's first passage, ascending (P,).
    """
    candidates = np.flatnonzero(is_candidate)
    return np.sort(candidates[np.unique(keys[candidates], return_index=True)[1]])


def hard_negatives(
    queries: np.ndarray,
    positive_scores: np.ndarray,
    pool: np.ndarray,
    settings: MineConfig,
    is_known: Callable[[int, np.ndarray], np.ndarray],
    is_near: Callable[[int, int], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """Select the highest-ranked passages of each question that are not known positives.

    1. List the first `depth` passages of the question, without its known positives.
    2. Skip the first `skip_first`, and those with a score above `margin` times that of the gold passage, or above that
       of a gold passage with a negative score ("percentage of positive" of Moreira et al. 2024, NV-Retriever, arXiv
       2407.15831). Both are at the head of the list, so the longer one counts.
    3. Take the next K, without near-duplicates of the gold passage.

    Args:
        queries: (N, D) float32.
        positive_scores: (N,) of the questions with their gold passages.
        pool: (P, D) float32; of equal scores the passage with the greater pool index ranks first.
        settings: negatives, depth, skip_first and margin.
        is_known: (row, pool indices) -> which of the candidates are known positives of the row's question, bool.
        is_near: (row, pool index) -> whether the gold passage of the row and the candidate are near-duplicates.

    Returns:
        Pool indices (N, K) int64, padded with -1, and scores (N, K) float32, padded with NaN.
    """
    negatives = np.full((len(queries), settings.negatives), -1, np.int64)
    scores = np.full(negatives.shape, np.nan, np.float32)
    for first in range(0, len(queries) if len(pool) else 0, _QUESTIONS_PER_BLOCK):
        found = top_k(queries[first : first + _QUESTIONS_PER_BLOCK], pool, settings.depth)
        for row, (listed_scores, listed) in enumerate(zip(*found, strict=True), start=first):
            unknown = np.flatnonzero(~is_known(row, listed))
            positive = positive_scores[row]
            max_score = np.inf if settings.margin is None else min(settings.margin * positive, positive)
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
