"""Exact scores, and the number of passages that score higher than a given one.

A score is the inner product of two vectors, summed in float64 and rounded to float32. It does not depend on the rest of
the batch, as the last bits of a float32 matrix product do: a passage has the same score, and the same rank, in every
shard and in every batch. A float32 matrix product serves as an approximation; only the products that are within its
error bound of a threshold are scored exactly.

Ties are ordered as trec_eval orders them: of passages with the same score, the one with the greater id ranks first. So
every rank is the one that `ir_measures` finds in the written ranking.

Legend: Q queries, P passages, D width; within a block, B queries, N passages, R thresholds of a query.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hbt_ray.errors import UserError

_MIN_THRESHOLDS_TO_SORT = 3  # of a query: from here on, sorting its scores is faster than comparing them with each
_SCORE_ALL_DIVISOR = 8  # where more than N / 8 passages are near a query's thresholds, all N are scored exactly
_PAIRS_PER_BLOCK = 1024  # scored exactly: few enough to stay in a cache of the processor
PASSAGES_PER_BLOCK = 4096  # multiplied in float64

NOT_RETRIEVED = -1  # the rank of a relevant passage that is not in the pool: it counts as relevant, and as never found


def exact_scores(
    queries: np.ndarray, passages: np.ndarray, rows: np.ndarray, passage_indices: np.ndarray
) -> np.ndarray:
    """Return the scores of N pairs of a query and a passage: (N,) float32.

    Args:
        queries: (Q, D) float32.
        passages: (P, D) float32.
        rows: (N,) the query of each pair.
        passage_indices: (N,) the passage of each pair.
    """
    scores = np.empty(len(passage_indices), np.float32)
    for first in range(0, len(passage_indices), _PAIRS_PER_BLOCK):
        part = slice(first, first + _PAIRS_PER_BLOCK)
        of_pairs = queries[rows[part]]
        # Summed along contiguous rows: the order of the additions depends only on D.
        # Adding 0 turns -0 into 0.
        scores[part] = np.add.reduce(of_pairs.astype(np.float64) * passages[passage_indices[part]], axis=1) + 0.0
    return scores


def exact_scores_of_all(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Return what `exact_scores` returns for all pairs: (B, D), (N, D) -> (B, N) float32.

    1. Multiply in float64. Products of float32 values are exact there, so two orders of summation differ by at most
       2 D u |q| |p|, with u = 2^-53 (Higham 2002, section 3.1).
    2. Where all sums within that distance round to one float32, it is the score.
    3. Score the other pairs, which are few, by `exact_scores`.
    """
    scores = np.empty((len(queries), len(passages)), np.float32)
    wide_queries = queries.astype(np.float64)
    unit = (queries.shape[1] + 8) * 2.0**-52  # 8: rounding errors of the bound itself
    query_lengths = unit * np.linalg.norm(wide_queries, axis=1)[:, None]
    for first in range(0, len(passages), PASSAGES_PER_BLOCK):
        wide_passages = passages[first : first + PASSAGES_PER_BLOCK].astype(np.float64)
        products = wide_queries @ wide_passages.T
        error = query_lengths * np.linalg.norm(wide_passages, axis=1)
        low, high = (products - error).astype(np.float32), (products + error).astype(np.float32)
        rows, columns = np.nonzero(low != high)
        low[rows, columns] = exact_scores(queries, passages, rows, first + columns)
        scores[:, first : first + PASSAGES_PER_BLOCK] = low + np.float32(0)
    return scores


def rank_keys(scores: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return int64 keys in the order of ranks: of equal scores the greater position has the greater key.

    Args:
        scores: float32, none of them -0.
        positions: integers from -2^31 to 2^31 - 1; broadcast to the shape of the scores.
    """
    bits = scores.view(np.int32)
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # as integers in the order of the float32 values
    keys: np.ndarray = (ordered.astype(np.int64) << 32) + positions
    return keys


def scores_of_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores, float32, and positions, int64 and 0 or more, of `rank_keys`."""
    ordered = (keys >> 32).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32), keys & 0xFFFFFFFF


def float32_error_bound(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Return an upper bound of a float32 dot product's rounding error, per query: (Q, D), (P, D) -> (Q,) float32.

    For a query q it is (16 + sqrt(D)) * u * |q| * max |p|, with u = 2^-24 the unit roundoff of float32. The worst case
    is D * u * |q| * |p| (Higham 2002, section 3.1); errors of independent signs grow with sqrt(D) (Higham and Mary
    2019). The constant is empirical: the largest error observed, for D from 64 to 1,024 and values that are spread
    evenly, equal or in spikes, is a third of this bound.
    """
    longest = np.sqrt(np.einsum("pd,pd->p", passages, passages).max(initial=0.0))
    units = (16 + np.sqrt(queries.shape[1])) * 2.0**-24
    lengths: np.ndarray = np.linalg.norm(queries, axis=1)
    return (units * longest * lengths).astype(np.float32)


def count_higher_scoring(
    approximate: np.ndarray,
    thresholds: np.ndarray,
    positions: np.ndarray,
    is_here: np.ndarray,
    error_bound: np.ndarray,
    score_exactly: Callable[[np.ndarray, np.ndarray], np.ndarray],
    score_all: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Count the passages among N that rank above given ones whose exact scores are known: (B, R) int64.

    1. Count the approximate scores above threshold + bound: these rank above for certain.
    2. Where only the given passage itself is within the bound, that is all.
    3. Elsewhere score the passages within the bound exactly, and compare; ties go by position.
    4. In rows where more than N / 8 passages are within the bounds, score all N exactly instead.

    Args:
        approximate: (B, N) scores within `error_bound` of the exact ones.
        thresholds: (B, R) exact scores of the given passages; NaN for none, which gives 0.
        positions: (B, R) of the given passages among the N: of equal scores, larger positions rank above.
        is_here: (B, R) bool, whether the given passages are among the N themselves.
        error_bound: (B,) see `float32_error_bound`.
        score_exactly: (rows, positions) -> exact scores of pairs of a query and a passage.
        score_all: (rows,) -> exact scores of the queries with all passages (rows, N).
    """
    is_given = ~np.isnan(thresholds)
    low, high = thresholds - error_bound[:, None], thresholds + error_bound[:, None]
    # 1. Those above for certain.
    many = np.count_nonzero(is_given.any(axis=0)) >= _MIN_THRESHOLDS_TO_SORT
    count = _counts_by_sorting if many else _counts_by_comparing
    above, not_below = count(approximate, low, high, is_given)
    # 2. Those within the bound.
    near = not_below - above
    width = approximate.shape[1]
    crowded = near.sum(axis=1) > is_here.sum(axis=1) + width / _SCORE_ALL_DIVISOR
    unsettled = (near > is_here) & ~crowded[:, None]
    # 3. Exact scores of those.
    slots_to_settle = np.flatnonzero(unsettled.any(axis=0))
    found = [
        _positions_between(approximate, low[:, slot], high[:, slot], unsettled[:, slot]) for slot in slots_to_settle
    ]
    if found:
        rows, candidates = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        slots = np.repeat(slots_to_settle, [len(rows_of_slot) for rows_of_slot, _ in found])
        scores, threshold = score_exactly(rows, candidates), thresholds[rows, slots]
        wins_tie = candidates > positions[rows, slots]
        ranks_above = (scores > threshold) | ((scores == threshold) & wins_tie)
        np.add.at(above, (rows[ranks_above], slots[ranks_above]), 1)
    # 4. Exact scores of all, where many are within the bound.
    rows = np.flatnonzero(crowded)
    if len(rows):
        keys = rank_keys(score_all(rows), np.arange(width))
        given = rank_keys(thresholds[rows].astype(np.float32), np.clip(positions[rows], -1, width))
        above[rows], _ = count(keys, given, given, is_given[rows])
    return above


def _positions_between(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, selected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and positions of the scores from `low` to `high`, in the selected rows.

    Shapes: scores (B, N), low and high (B,), selected (B,) bool.
    """
    rows = np.flatnonzero(selected)
    of_rows = scores[rows]
    width = scores.shape[1]
    mask = np.zeros((len(rows), -(-width // 8) * 8), bool)
    np.greater_equal(of_rows, low[rows, None], out=mask[:, :width])
    mask[:, :width] &= of_rows <= high[rows, None]
    # Few are set: words of eight zeros are skipped.
    words = np.flatnonzero(mask.view(np.uint64))
    flat = (words[:, None] * 8 + np.arange(8)).ravel()
    flat = flat[mask.reshape(-1)[flat]]
    return rows[flat // mask.shape[1]], flat % mask.shape[1]


def _counts_by_sorting(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, is_given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count the scores above `high`, and those not below `low`: (B, R), (B, R); 0 where no threshold is given."""
    above, not_below = np.zeros(is_given.shape, np.int64), np.zeros(is_given.shape, np.int64)
    width = scores.shape[1]
    for row, ascending in enumerate(np.sort(scores, axis=1)):
        slots = is_given[row]
        above[row, slots] = width - ascending.searchsorted(high[row, slots], "right")
        not_below[row, slots] = width - ascending.searchsorted(low[row, slots], "left")
    return above, not_below


def _counts_by_comparing(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, is_given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count as `_counts_by_sorting` does; faster for few thresholds of each query."""
    above, not_below = np.zeros(is_given.shape, np.int64), np.zeros(is_given.shape, np.int64)
    width = scores.shape[1]
    mask = np.zeros((len(scores), -(-width // 8) * 8), bool)  # padded: whole 64-bit words are counted
    for slot in np.flatnonzero(is_given.any(axis=0)):
        rows = np.flatnonzero(is_given[:, slot])
        of_rows = scores if len(rows) == len(scores) else scores[rows]
        mask_of_rows = mask[: len(rows)]
        np.greater(of_rows, high[rows, slot, None], out=mask_of_rows[:, :width])
        above[rows, slot] = _row_counts(mask_of_rows)
        np.greater_equal(of_rows, low[rows, slot, None], out=mask_of_rows[:, :width])
        not_below[rows, slot] = _row_counts(mask_of_rows)
    return above, not_below


def _row_counts(mask: np.ndarray) -> np.ndarray:
    """Count the True values in each row of a mask, (B, a multiple of 8) bool: (B,) int64."""
    counts: np.ndarray = np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return counts


def check_vectors(query_vectors: np.ndarray, passage_vectors: np.ndarray) -> None:
    """Raise UserError when vectors cannot be compared: nothing ranks above NaN, so it would count as found."""
    if query_vectors.shape[1:] != passage_vectors.shape[1:]:
        raise UserError(
            f"questions have {query_vectors.shape[1:]} values and passages {passage_vectors.shape[1:]}; "
            "embed both with the same model"
        )
    for side, vectors in (("questions", query_vectors), ("passages", passage_vectors)):
        if not np.isfinite(vectors).all():
            raise UserError(f"the vectors of the {side} hold NaN or infinity; the model has diverged, train it again")
