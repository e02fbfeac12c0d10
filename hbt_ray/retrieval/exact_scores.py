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
SCORE_ALL_DIVISOR = 8  # where more than N / 8 passages need to be scored for a query, all N are
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
        scores[part] = np.add.reduce(of_pairs.astype(np.float64) * passages[passage_indices[part]], axis=1)
    return scores + np.float32(0)  # turns -0 into 0


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


def longest_vector(vectors: np.ndarray) -> float:
    """Return an upper bound of the lengths of vectors (P, D) float32: they are summed in float32, with its errors."""
    with np.errstate(over="ignore"):
        squares = np.einsum("pd,pd->p", vectors, vectors).max(initial=0.0)
    if np.isinf(squares):
        squares = np.einsum("pd,pd->p", vectors, vectors, dtype=np.float64).max()
    width = vectors.shape[1]
    return float(np.sqrt(float(squares) * (1 + 2 * _gamma(width))) + width * 2.0**-63)


def float32_error_bound(queries: np.ndarray, longest: float) -> np.ndarray:
    """Return an upper bound of |s - e| for each query: (Q, D) -> (Q,) float64.

    s is the float32 dot product of the query and any passage, e their exact score:

        |s - q.p| <= gamma(D) |q| |p|      gamma(n) = n u / (1 - n u), u = 2^-24

    for every order of the additions, with or without fused multiply-add (Higham 2002, section 3.1). The score is
    rounded to float32: another u |q| |p|. gamma(D + 4) leaves 3 u for the errors of float64. A product or sum that
    underflows adds 2^-126 at most. The bound is infinite where a product might overflow.

    Args:
        queries: (Q, D) float32.
        longest: `longest_vector` of the passages.
    """
    width = queries.shape[1]
    largest = np.linalg.norm(queries.astype(np.float64), axis=1) * longest
    bound: np.ndarray = np.where(largest < 2.0**126, _gamma(width) * largest + width * 2.0**-125, np.inf)
    return bound


def _gamma(width: int) -> float:
    return (width + 4) * 2.0**-24 / (1 - (width + 4) * 2.0**-24)


def round_down(values: np.ndarray) -> np.ndarray:
    """Return float32 values that are below float64 ones."""
    below: np.ndarray = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return below


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
    low, high = round_down(thresholds - error_bound[:, None]), -round_down(-thresholds - error_bound[:, None])
    # 1. Those above for certain.
    many = np.count_nonzero(is_given.any(axis=0)) >= _MIN_THRESHOLDS_TO_SORT
    count = _counts_by_sorting if many else _counts_by_comparing
    above, not_below = count(approximate, low, high, is_given)
    # 2. Those within the bound.
    near = not_below - above
    width = approximate.shape[1]
    crowded = near.sum(axis=1) > is_here.sum(axis=1) + width / SCORE_ALL_DIVISOR
    crowded |= np.isinf(error_bound)
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
    is_between = (of_rows >= low[rows, None]) & (of_rows <= high[rows, None])
    found, positions = divmod(np.flatnonzero(is_between), scores.shape[1])
    return rows[found], positions


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
