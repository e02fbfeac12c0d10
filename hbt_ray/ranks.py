"""Exact scores, and how many passages stand above one.

A score is the inner product of two vectors, summed in float64 and rounded to float32. So it does not depend on what is
multiplied beside it, as the last bits of a matrix product do: a passage has the same score, and the same rank, wherever
and with whichever others it lies. A float32 matrix product is near; those that it cannot tell from a threshold are
scored exactly.

Equal scores are ordered as trec_eval orders them: of passages with the same score the one with the greater id stands
first. So every rank is the one that `ir_measures` finds in the written ranking.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hbt_ray.errors import UserError

_WORTH_SORTING = 3  # thresholds of a query: as many comparisons of all its scores take as long as to sort them
_WORTH_ALL = 8  # where more than one passage in so many is near a threshold, all are scored exactly, once
_PAIRS_AT_ONCE = 1024  # scored exactly: few enough to stay in a cache of the processor


def exact_scores(queries: np.ndarray, passages: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Scores of N pairs of a query and a passage: (N,) float32.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32.
        rows: (N,) queries of the pairs; or (1,), one query for all.
        columns: (N,) passages of the pairs.
    """
    scores = np.empty(len(columns), np.float32)
    for first in range(0, len(columns), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        asked = queries[rows if len(rows) == 1 else rows[part]]
        # A sum along rows that lie side by side: its order depends on D alone.
        scores[part] = np.add.reduce(asked.astype(np.float64) * passages[columns[part]], axis=1)
    return scores


def reach(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """How far a float32 matrix product's scores may lie from the exact ones: (Q, D), (P, D) -> (Q,) float32.

    Rounding errors of a sum of D products grow with the square root of D; the greatest seen, over 64 to 1,024 values
    spread evenly, alike or in spikes, is a third of this.
    """
    longest = np.sqrt(np.einsum("pd,pd->p", passages, passages).max(initial=0.0))
    units = (16 + np.sqrt(queries.shape[1])) * 2.0**-24
    lengths: np.ndarray = np.linalg.norm(queries, axis=1)
    return (units * longest * lengths).astype(np.float32)


def count_above(
    near_scores: np.ndarray,
    thresholds: np.ndarray,
    own: np.ndarray,
    here: np.ndarray,
    reach: np.ndarray,
    exactly: Callable[[int, np.ndarray], np.ndarray],
) -> np.ndarray:
    """How many of N passages stand above each of some whose exact scores are known: (B, R) int64.

    Args:
        near_scores: (B, N), within `reach` of the exact ones.
        thresholds: (B, R) exact scores of those that are asked about; NaN for none, which gives 0.
        own: (B, R) their places: of equal scores, those further to the right stand above.
        here: (B, R) whether they are among the N themselves.
        reach: (B,)
        exactly: `exactly(row, places)` are the exact scores of a query's passages at some places.
    """
    asked = ~np.isnan(thresholds)
    low, high = thresholds - reach[:, None], thresholds + reach[:, None]
    if np.count_nonzero(asked.any(axis=0)) >= _WORTH_SORTING:
        above, from_low = _counts_by_sorting(near_scores, low, high, asked)
    else:
        above, from_low = _counts_by_comparing(near_scores, low, high, asked)
    unsettled = from_low - above > here
    for row in np.flatnonzero(unsettled.any(axis=1)):
        line = near_scores[row]
        slots = np.flatnonzero(unsettled[row])
        most = int((from_low - above)[row, slots].max())
        all_scores = exactly(int(row), np.arange(len(line))) if most * _WORTH_ALL > len(line) else None
        for slot in slots:
            places = np.flatnonzero((line >= low[row, slot]) & (line <= high[row, slot]))
            scores = exactly(int(row), places) if all_scores is None else all_scores[places]
            threshold = thresholds[row, slot]
            further = places > own[row, slot]
            above[row, slot] += np.count_nonzero((scores > threshold) | ((scores == threshold) & further))
    return above


def _counts_by_sorting(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many scores are above `high`, and how many not below `low`: (B, R), (B, R); 0 where nothing is asked."""
    above, from_low = np.zeros(asked.shape, np.int64), np.zeros(asked.shape, np.int64)
    width = scores.shape[1]
    for row, ordered in enumerate(np.sort(scores, axis=1)):
        slots = asked[row]
        above[row, slots] = width - ordered.searchsorted(high[row, slots], "right")
        from_low[row, slots] = width - ordered.searchsorted(low[row, slots], "left")
    return above, from_low


def _counts_by_comparing(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_counts_by_sorting`, for few thresholds of each query."""
    above, from_low = np.zeros(asked.shape, np.int64), np.zeros(asked.shape, np.int64)
    width = scores.shape[1]
    mask = np.zeros((len(scores), -(-width // 8) * 8), bool)  # whole words are counted
    for slot in np.flatnonzero(asked.any(axis=0)):
        rows = np.flatnonzero(asked[:, slot])
        lines = scores if len(rows) == len(scores) else scores[rows]
        own_mask = mask[: len(rows)]
        np.greater(lines, high[rows, slot, None], out=own_mask[:, :width])
        above[rows, slot] = _row_counts(own_mask)
        np.greater_equal(lines, low[rows, slot, None], out=own_mask[:, :width])
        from_low[rows, slot] = _row_counts(own_mask)
    return above, from_low


def _row_counts(mask: np.ndarray) -> np.ndarray:
    """How many are set in each row of a mask, (B, a multiple of 8) bool: (B,)."""
    counts: np.ndarray = np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return counts


def check_vectors(query_vectors: np.ndarray, passage_vectors: np.ndarray) -> None:
    """Raises UserError when vectors cannot be compared: NaN would rank above nothing, and so count as found."""
    if query_vectors.shape[1:] != passage_vectors.shape[1:]:
        raise UserError(
            f"questions have {query_vectors.shape[1:]} values and passages {passage_vectors.shape[1:]}; "
            "embed both with the same model"
        )
    for side, vectors in (("questions", query_vectors), ("passages", passage_vectors)):
        if not np.isfinite(vectors).all():
            raise UserError(f"the vectors of the {side} hold NaN or infinity; the model has diverged, train it anew")
