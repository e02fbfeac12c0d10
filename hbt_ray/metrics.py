"""From vectors to the ranks of the relevant passages, and from ranks to measures.

Legend: Q queries, P passages in the pool, D width, R relevant passages of the query that has most. An array of ranks
is (Q, R), counts from 1, and holds 0 where a query has fewer than R relevant passages and ABSENT for one that cannot
be found, because the pool lacks it; their order does not matter. Ranks are exact, over the whole pool: there is no
cut-off.

Equal scores are ordered as trec_eval orders them: scores are float32, and of passages with the same score the one with
the greater id stands first. So every value equals the one that `ir_measures` finds in the written ranking.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hbt_ray.errors import UserError

Pool = slice | np.ndarray  # columns of the passages in it, ascending
_WORTH_SORTING = 3  # ranks of a query: as many comparisons of all its scores take as long as to sort them
_ROWS = 64  # of scores, compared at once: few enough to stay in a cache of the processor
ABSENT = -1  # the rank of a relevant passage that is not in the pool: it counts as relevant, and as never found


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number is: a metric's name is `<benchmark>/<setting>/<measure>[/<language or pair>]`."""

    name: str
    column: str  # in the per-query table
    unit: str
    higher_is_better: bool


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("map", "ap", "share", True),
        Measure("ndcg@10", "ndcg@10", "share", True),
        Measure("recall@1", "recall@1", "share", True),
        Measure("recall@10", "recall@10", "share", True),
        Measure("recall@100", "recall@100", "share", True),
        Measure("success@10", "success@10", "share", True),
        Measure("mrr", "rr", "share", True),
        Measure("mrr@10", "rr@10", "share", True),
        Measure("rank_distance", "rank_distance", "ranks", False),
        Measure("same_language_first", "same_language_first", "share", False),
        Measure("peer@100", "peer", "share", True),
    )
}


def named(measure: Measure, depth: int | None) -> str:
    """What a measure is called where no more than `depth` passages of each query were looked at; None: all.

    >>> named(MEASURES["map"], 1000), named(MEASURES["ndcg@10"], 1000), named(MEASURES["map"], None)
    ('map@1000', 'ndcg@10', 'map')
    """
    return measure.name if depth is None or "@" in measure.name else f"{measure.name}@{depth}"


def measure_of(metric: str) -> Measure:
    """The measure in a metric's name.

    >>> measure_of("xquad-r/multi/rank_distance/ar").higher_is_better
    False
    >>> measure_of("miracl/mono/map@1000").name
    'map'

    Raises:
        UserError: the name holds none.
    """
    _, _, name, *_ = *metric.split("/"), "", "", ""
    measure = MEASURES.get(name) or MEASURES.get(name.partition("@")[0])
    if measure is None:
        raise UserError(f"{metric!r} is not a metric; write <benchmark>/<mono, cross or multi>/<{', '.join(MEASURES)}>")
    return measure


def ranks_of_relevant(
    query_vectors: np.ndarray,
    passage_vectors: np.ndarray,
    relevant: np.ndarray,
    pools: Sequence[Pool] = (slice(None),),
    block: int | None = None,
    starts: np.ndarray | None = None,
) -> np.ndarray:
    """Exact ranks of the relevant passages by inner product, in several pools from one pass over the scores.

    A rank is one more than the number of passages of the pool that stand above. A passage's score is read from the
    same matrix as those it is compared with, and equal vectors are scored once, so that ties are exact: a matrix
    product gives equal columns unequal last bits.

    Args:
        query_vectors: (Q, D) float32.
        passage_vectors: (P, D) float32, sorted by passage id.
        relevant: (Q, R) columns of the relevant passages, -1 where a query has fewer.
        pools: the passages of each pool, as a slice or as ascending columns.
        starts: (P,) where the vectors of each passage begin, whose score is that of its best one; None: one each.
        block: queries scored at once, which takes 5 * block * P bytes, nine where vectors repeat; by default up to
            160 MiB.

    Returns:
        (pools, Q, R) int32 ranks, 0 where the passage is not in the pool.

    Raises:
        UserError: a vector holds NaN or infinity, or widths differ.
    """
    check_vectors(query_vectors, passage_vectors)
    num_vectors = len(passage_vectors)
    num_passages = num_vectors if starts is None else len(starts)
    distinct, column_of = distinct_rows(passage_vectors)  # (U, D), (vectors,)
    places = [_places_in_pool(relevant, pool, num_passages) for pool in pools]  # each (Q, R)
    ranks = np.zeros((len(pools), *relevant.shape), np.int32)
    block = block or max(1, min(512, 2**25 // max(num_vectors, 1)))
    # Kept for all blocks: fresh memory for each costs more time than the products do.
    products = np.empty((block, len(distinct)), np.float32)
    each = products if len(distinct) == num_vectors else np.empty((block, num_vectors), np.float32)
    scores = each if starts is None else np.empty((block, num_passages), np.float32)

    def rank_part(first: int, begin: int, end: int) -> None:
        mask = np.empty((end - begin, -(-num_passages // 8) * 8), bool)
        rows = slice(first + begin, first + end)
        for pool, place, rank in zip(pools, places, ranks, strict=True):
            _rank_block(scores[begin:end, pool], place[rows], rank[rows], mask)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for first in range(0, len(query_vectors), block):
            count = len(query_vectors[first : first + block])
            np.matmul(query_vectors[first : first + block], distinct.T, out=products[:count])
            if each is not products:
                # "clip" writes unbuffered
                np.take(products[:count], column_of, axis=1, out=each[:count], mode="clip")
            if starts is not None:
                np.maximum.reduceat(each[:count], starts, axis=1, out=scores[:count])
            begins = range(0, count, _ROWS)
            ends = [min(begin + _ROWS, count) for begin in begins]
            list(workers.map(rank_part, [first] * len(begins), begins, ends))
    return ranks


def _rank_block(scores: np.ndarray, places: np.ndarray, ranks: np.ndarray, mask: np.ndarray) -> None:
    """Fills in the ranks of a block.

    Args:
        scores: (B, pool).
        places: (B, R) in the pool, -1 where there is none.
        ranks: (B, R), to be filled in.
        mask: at least (B, pool) bool, to be written over.
    """
    slots = np.flatnonzero((places >= 0).any(axis=0))
    if len(slots) >= _WORTH_SORTING:
        _rank_sorted(scores, places, ranks)
        return
    for slot in slots:
        rows = np.flatnonzero(places[:, slot] >= 0)
        lines = scores if len(rows) == len(scores) else scores[rows]
        own = places[rows, slot]
        ranks[rows, slot] = 1 + count_above(lines, lines[np.arange(len(rows)), own], own, mask)


def _rank_sorted(scores: np.ndarray, places: np.ndarray, ranks: np.ndarray) -> None:
    """`_rank_block` for many ranks of each query: its scores are sorted once, and each rank is looked up."""
    width = scores.shape[1]
    for line, ordered, own, rank in zip(scores, np.sort(scores, axis=1), places, ranks, strict=True):
        there = own >= 0
        threshold = line[own[there]]
        up_to = ordered.searchsorted(threshold, "right")
        found = 1 + width - up_to
        for tied in np.flatnonzero(up_to - ordered.searchsorted(threshold, "left") > 1):
            found[tied] += np.count_nonzero(line[own[there][tied] + 1 :] == threshold[tied])
        rank[there] = found


def count_above(scores: np.ndarray, threshold: np.ndarray, own: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How many passages stand above one that each query is asked about: (B,).

    Args:
        scores: (B, N) of N neighbouring passages.
        threshold: (B,) score of the one asked about.
        own: (B,) its place among the N; below 0 where it stands to their left, N or more where to their right. Of equal
            scores those further to the right stand above.
        mask: at least (B, N rounded up to a multiple of 8) bool, to be written over.
    """
    count, width = scores.shape
    padded = mask[:count, : -(-width // 8) * 8]
    padded[:, width:] = False
    np.greater(scores, threshold[:, None], out=padded[:, :width])
    above = _counts(padded)
    np.greater_equal(scores, threshold[:, None], out=padded[:, :width])
    itself = (own >= 0) & (own < width)
    for tied in np.flatnonzero(_counts(padded) - above > itself):
        start = min(max(int(own[tied]) + 1, 0), width)
        above[tied] += np.count_nonzero(scores[tied, start:] == threshold[tied])
    return above


def _counts(mask: np.ndarray) -> np.ndarray:
    """How many are set in each row of a mask, (B, a multiple of 8) bool: (B,)."""
    counts: np.ndarray = np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return counts


def _places_in_pool(relevant: np.ndarray, pool: Pool, num_passages: int) -> np.ndarray:
    """Where each relevant passage stands in the pool, -1 where it does not: (Q, R)."""
    columns = np.arange(num_passages)[pool]
    place_of = np.full(num_passages + 1, -1, np.int64)  # the last entry serves the -1 in `relevant`
    place_of[columns] = np.arange(len(columns))
    places: np.ndarray = place_of[relevant]
    return places


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


def distinct_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that differ, and for each row which of them it equals: (P, D) -> (U, D), (P,).

    >>> distinct_rows(np.float32([[1, 0], [0, 1], [1, 0]]))[1].tolist()
    [0, 1, 0]
    """
    numbers: dict[bytes, int] = {}
    column_of = np.fromiter((numbers.setdefault(row.tobytes(), len(numbers)) for row in vectors), np.int64)
    if len(numbers) == len(vectors):
        return vectors, column_of
    first = np.unique(column_of, return_index=True)[1]
    return vectors[first], column_of


def average_precision(ranks: np.ndarray) -> np.ndarray:
    """Precision at the rank of each relevant passage, summed and divided by the number of relevant passages.

    trec_eval's `map` before the mean. sentence-transformers and XTREME divide by min(k, relevant) instead.

    >>> average_precision(np.array([[1, 4], [3, 0]])).tolist()  # (1/1 + 2/4) / 2 and 1/3
    [0.75, 0.3333333333333333]

    Args:
        ranks: (Q, R).

    Returns:
        (Q,), 0 for a query with no relevant passage.
    """
    ordered, present = _ordered(ranks)
    found = np.cumsum(present, axis=1)  # relevant passages up to and including this one
    precisions = np.divide(found, ordered, where=present, out=np.zeros(ranks.shape))
    return _share(precisions.sum(axis=1), ranks)


def reciprocal_rank(ranks: np.ndarray, k: int | None = None) -> np.ndarray:
    """1 / rank of the first relevant passage, trec_eval's `recip_rank`: (Q, R) -> (Q,), 0 where there is none.

    >>> reciprocal_rank(np.array([[5, 2], [0, 0]])).tolist()
    [0.5, 0.0]

    Args:
        k: how many passages are looked at; None: all.
    """
    counted = (ranks > 0) if k is None else (ranks > 0) & (ranks <= k)
    inverse = np.divide(1.0, ranks, where=counted, out=np.zeros(ranks.shape))
    best: np.ndarray = inverse.max(axis=1, initial=0.0)
    return best


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Share of the relevant passages among the first k, trec_eval's `recall`: (Q, R) -> (Q,), 0 where there is none.

    >>> recall(np.array([[1, 11, 12], [0, 0, 0]]), 11).tolist()
    [0.6666666666666666, 0.0]
    """
    return _share(((ranks > 0) & (ranks <= k)).sum(axis=1), ranks)


def success(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where a relevant passage is among the first k, else 0, trec_eval's `success`: (Q, R) -> (Q,).

    >>> success(np.array([[11, 3], [0, 0]]), 10).tolist()
    [1.0, 0.0]
    """
    return ((ranks > 0) & (ranks <= k)).any(axis=1).astype(float)


def ndcg(ranks: np.ndarray, k: int, grades: np.ndarray | None = None) -> np.ndarray:
    """Discounted gain of the first k over that of the best order, trec_eval's `ndcg_cut`.

    The gain of a passage is its grade (not 2**grade - 1), its discount log2(rank + 1). Järvelin and Kekäläinen 2002.

    >>> ndcg(np.array([[2, 0]]), 10).round(4).tolist()  # (1 / log2 3) / (1 / log2 2)
    [0.6309]

    Args:
        ranks: (Q, R).
        k: how many passages count.
        grades: (Q, R), > 0 wherever there is a rank or ABSENT; None: all 1.

    Returns:
        (Q,), 0 for a query with no relevant passage.
    """
    gains = np.where(ranks != 0, 1.0 if grades is None else grades, 0.0)
    counted = (ranks > 0) & (ranks <= k)
    gained = np.divide(gains, np.log2(np.maximum(ranks, 0) + 1.0), where=counted, out=np.zeros(ranks.shape)).sum(axis=1)
    best = -np.sort(-gains, axis=1)[:, :k]
    ideal = (best / np.log2(np.arange(best.shape[1]) + 2.0)).sum(axis=1)
    return np.divide(gained, ideal, where=ideal > 0, out=np.zeros(len(ranks)))


def rank_distance(ranks: np.ndarray) -> np.ndarray:
    """Highest minus lowest rank of the relevant passages, in ranks: (Q, R) -> (Q,), NaN with fewer than two found.

    The measure of language bias of Elmahdy et al. 2024, arXiv 2408.10536: small where a question finds its answer in
    every language at nearly the same place. A random order of P passages with n relevant gives
    (n - 1) / (n + 1) * (P + 1) on average; no order gives less than n - 1.

    >>> rank_distance(np.array([[7, 3, 10], [4, 0, 0]])).tolist()
    [7.0, nan]
    """
    ordered, present = _ordered(ranks)
    highest = np.where(present, ordered, 0).max(axis=1, initial=0)
    lowest = ordered.min(axis=1, initial=np.iinfo(np.int64).max)
    distance: np.ndarray = np.where(present.sum(axis=1) >= 2, highest - lowest, np.nan)
    return distance


def _ordered(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks ascending with the empty places last, and which are not empty: (Q, R), (Q, R)."""
    ordered = np.sort(np.where(ranks > 0, ranks.astype(np.int64), np.iinfo(np.int64).max), axis=1)
    return ordered, np.sort(ranks > 0, axis=1)[:, ::-1]


def _share(counted: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Divided by the number of relevant passages: (Q,), 0 where there is none."""
    relevant = (ranks != 0).sum(axis=1)
    return np.divide(counted, relevant, where=relevant > 0, out=np.zeros(len(ranks)))
