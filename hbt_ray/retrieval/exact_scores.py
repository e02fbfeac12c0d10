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

NOT_RETRIEVED = -1  # the rank of a relevant passage that is not in the pool: it counts as relevant, and as never found


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


def float32_error_bound(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """How far a float32 matrix product's scores may lie from the exact ones: (Q, D), (P, D) -> (Q,) float32.

    Rounding errors of a sum of D products grow with the square root of D; the greatest seen, over 64 to 1,024 values
    spread evenly, alike or in spikes, is a third of this.
    """
    longest = np.sqrt(np.einsum("pd,pd->p", passages, passages).max(initial=0.0))
    units = (16 + np.sqrt(queries.shape[1])) * 2.0**-24
    lengths: np.ndarray = np.linalg.norm(queries, axis=1)
    return (units * longest * lengths).astype(np.float32)


def count_higher_scoring(
    near_scores: np.ndarray,
    thresholds: np.ndarray,
    own: np.ndarray,
    here: np.ndarray,
    reach: np.ndarray,
    exactly: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """How many of N passages stand above each of some whose exact scores are known: (B, R) int64.

    Args:
        near_scores: (B, N), within `float32_error_bound` of the exact ones.
        thresholds: (B, R) exact scores of those that are asked about; NaN for none, which gives 0.
        own: (B, R) their places: of equal scores, those further to the right stand above.
        here: (B, R) whether they are among the N themselves.
        reach: (B,)
        exactly: `exactly(rows, places)` are the exact scores of pairs of a query and a passage; of one query and
            several passages where there is one row.
    """
    asked = ~np.isnan(thresholds)
    low, high = thresholds - reach[:, None], thresholds + reach[:, None]
    if np.count_nonzero(asked.any(axis=0)) >= _WORTH_SORTING:
        above, from_low = _counts_by_sorting(near_scores, low, high, asked)
    else:
        above, from_low = _counts_by_comparing(near_scores, low, high, asked)
    near = from_low - above
    crowded = near.max(axis=1, initial=0) * _WORTH_ALL > near_scores.shape[1]
    unsettled = (near > here) & ~crowded[:, None]
    found = [_places_between(near_scores, low[:, slot], high[:, slot], unsettled[:, slot]) for slot in _any(unsettled)]
    if found:
        rows, places = (np.concatenate(of) for of in zip(*found, strict=True))
        slots = np.repeat(_any(unsettled), [len(own) for own, _ in found])
        scores, asked_about = exactly(rows, places), thresholds[rows, slots]
        further = places > own[rows, slots]
        stand_above = (scores > asked_about) | ((scores == asked_about) & further)
        np.add.at(above, (rows[stand_above], slots[stand_above]), 1)
    for row in np.flatnonzero(crowded & asked.any(axis=1)):
        places = np.arange(near_scores.shape[1])
        scores = exactly(np.array([row]), places)
        for slot in np.flatnonzero(asked[row]):
            tied = (scores == thresholds[row, slot]) & (places > own[row, slot])
            above[row, slot] = np.count_nonzero(tied | (scores > thresholds[row, slot]))
    return above


def _any(unsettled: np.ndarray) -> np.ndarray:
    """Slots in which anything is unsettled."""
    return np.flatnonzero(unsettled.any(axis=0))


def _places_between(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places of the scores from `low` to `high`, in the rows that are wanted.

    Args:
        scores: (B, N).
        low, high: (B,).
        wanted: (B,) bool.
    """
    rows = np.flatnonzero(wanted)
    lines = scores[rows]
    width = scores.shape[1]
    mask = np.zeros((len(rows), -(-width // 8) * 8), bool)
    np.greater_equal(lines, low[rows, None], out=mask[:, :width])
    mask[:, :width] &= lines <= high[rows, None]
    # Few are set: eight at a time are passed over.
    words = np.flatnonzero(mask.view(np.uint64))
    flat = (words[:, None] * 8 + np.arange(8)).ravel()
    flat = flat[mask.reshape(-1)[flat]]
    return rows[flat // mask.shape[1]], flat % mask.shape[1]


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
