"""What a measure is, and measures from the ranks of the relevant passages.

Legend: Q queries, R relevant passages of the query that has most. An array of ranks is (Q, R), counts from 1, and
holds 0 where a query has fewer than R relevant passages and NOT_RETRIEVED for one that cannot be found, because the
pool lacks it; their order does not matter. Ranks are exact, over the whole pool: there is no cut-off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbt_ray.errors import UserError


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number is: a metric's name is `<benchmark>/<setting>/<measure>[/<language or pair>]`."""

    name: str
    column: str  # in the per-query table
    unit: str
    higher_is_better: bool


METRICS = {
    measure.name: measure
    for measure in (
        Metric("map", "ap", "share", True),
        Metric("ndcg@10", "ndcg@10", "share", True),
        Metric("recall@1", "recall@1", "share", True),
        Metric("recall@10", "recall@10", "share", True),
        Metric("recall@100", "recall@100", "share", True),
        Metric("success@10", "success@10", "share", True),
        Metric("mrr", "rr", "share", True),
        Metric("mrr@10", "rr@10", "share", True),
        Metric("rank_distance", "rank_distance", "ranks", False),
        Metric("same_language_first", "same_language_first", "share", False),
        Metric("peer@100", "peer", "share", True),
    )
}


def named(measure: Metric, depth: int | None) -> str:
    """What a measure is called where no more than `depth` passages of each query were looked at; None: all.

    >>> named(MEASURES["map"], 1000), named(MEASURES["ndcg@10"], 1000), named(MEASURES["map"], None)
    ('map@1000', 'ndcg@10', 'map')
    """
    return measure.name if depth is None or "@" in measure.name else f"{measure.name}@{depth}"


def measure_of(metric: str) -> Metric:
    """The measure in a metric's name.

    >>> measure_of("xquad-r/multi/rank_distance/ar").higher_is_better
    False
    >>> measure_of("miracl/mono/map@1000").name
    'map'

    Raises:
        UserError: the name holds none.
    """
    _, _, name, *_ = *metric.split("/"), "", "", ""
    measure = METRICS.get(name) or METRICS.get(name.partition("@")[0])
    if measure is None:
        raise UserError(f"{metric!r} is not a metric; write <benchmark>/<mono, cross or multi>/<{', '.join(METRICS)}>")
    return measure


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
        grades: (Q, R), > 0 wherever there is a rank or NOT_RETRIEVED; None: all 1.

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
