"""The metrics: one decorated function each, from the ranks of the relevant passages.

`METRICS` holds them in the order in which tables and files list them. To add one, write a decorated function here: the
per-query table, the averages, tables, figures, display names and the mteb export follow from it.

Legend: Q queries, R relevant passages of the query that has most. An array of ranks is (Q, R), counts from 1, and
holds 0 where a query has fewer than R relevant passages and NOT_RETRIEVED for a passage that cannot be found, because
the pool lacks it; the order within a row does not matter. Ranks are exact, over the whole pool: there is no cut-off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from hbt_ray.errors import UserError
from hbt_ray.evaluation import language_bias
from hbt_ray.evaluation.pool_sampling import expected_average_precision
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED

Setting = Literal["mono", "cross", "multi"]
SETTINGS: tuple[Setting, ...] = ("mono", "cross", "multi")
GAP = "gap"  # in place of a setting, in the name of mono mAP minus cross mAP
DROP, WORST_DROP = "drop", "worst_drop"  # before a metric's name: what perturbed queries cost of it
PEER_DEPTH = 100  # as its authors report it


@dataclass(frozen=True, slots=True)
class RankedJudgements:
    """The relevant passages of Q queries of one language, and their ranks in one pool."""

    ranks: np.ndarray  # (Q, R)
    grades: np.ndarray  # (Q, R), 0 where a query has fewer than R
    passage_languages: np.ndarray  # (Q, R) str, "" where a query has fewer than R
    is_in_pool: np.ndarray  # (Q, R) bool
    query_language: str
    depth: int | None = None  # passages of each query that an approximate index lists; None: all
    num_passages: np.ndarray | None = None  # (Q,) in the pool; None: the pool is not of one language
    smallest_pool: int = 0  # passages of the language that has fewest

    @property
    def bounded_ranks(self) -> np.ndarray:
        """Ranks in which a passage that the approximate index did not list comes right behind those it listed.

        For the metrics of language bias: a model must not look fairer for the passages that it misses.
        """
        if self.depth is None:
            return self.ranks
        return np.where((self.ranks == NOT_RETRIEVED) & self.is_in_pool, self.depth + 1, self.ranks)


MetricFn = Callable[[RankedJudgements], np.ndarray]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a query and its judgements; `<benchmark>/<setting>/<name>[/<language or pair>]` names its average."""

    name: str
    compute: MetricFn  # (Q,) float64; NaN for a query that the metric is not defined for
    column: str  # in the per-query table
    unit: Literal["share", "ranks"]
    higher_is_better: bool
    settings: tuple[Setting, ...]  # in which it exists
    display: str  # in tables and figures
    display_with_setting: bool  # False: the name implies the setting
    by_language: tuple[Setting, ...]  # in which it is also reported for each language or pair
    headline: tuple[Setting, ...]  # in which runs are compared by it
    judged_pool_headline: tuple[
        Setting, ...
    ]  # the same, only on benchmarks judged language by language, such as MIRACL
    mteb: str | None  # its name in mteb's result files

    def name_at(self, depth: int | None) -> str:
        """Return the name where no more than `depth` passages of each query were ranked; None: all.

        >>> METRICS["map"].name_at(1000), METRICS["ndcg@10"].name_at(1000), METRICS["map"].name_at(None)
        ('map@1000', 'ndcg@10', 'map')
        """
        return self.name if depth is None or "@" in self.name else f"{self.name}@{depth}"


_registry: dict[str, Metric] = {}
METRICS: Mapping[str, Metric] = MappingProxyType(_registry)


def metric(
    name: str,
    *,
    display: str,
    column: str | None = None,
    unit: Literal["share", "ranks"] = "share",
    higher_is_better: bool = True,
    settings: tuple[Setting, ...] = SETTINGS,
    display_with_setting: bool = True,
    by_language: tuple[Setting, ...] = (),
    headline: tuple[Setting, ...] = (),
    judged_pool_headline: tuple[Setting, ...] = (),
    mteb: str | None = None,
) -> Callable[[MetricFn], MetricFn]:
    """Register the decorated function as a metric; see `Metric` for the arguments. `column` defaults to `name`."""

    def register(compute: MetricFn) -> MetricFn:
        assert name not in _registry, f"the metric {name!r} is registered twice"
        assert mteb is None or settings == SETTINGS, "mteb has the same scores for every subset"
        assert {*headline, *judged_pool_headline} <= set(by_language), "headlines are listed for each language, too"
        _registry[name] = Metric(
            name=name,
            compute=compute,
            column=column or name,
            unit=unit,
            higher_is_better=higher_is_better,
            settings=settings,
            display=display,
            display_with_setting=display_with_setting,
            by_language=by_language,
            headline=headline,
            judged_pool_headline=judged_pool_headline,
            mteb=mteb,
        )
        return compute

    return register


@metric("map", column="ap", display="mAP", mteb="map", by_language=("mono", "cross", "multi"), headline=SETTINGS)
def mean_average_precision(judged: RankedJudgements) -> np.ndarray:
    """Compute average precision over the whole ranking; its mean over queries is mAP."""
    return average_precision(judged.ranks)


@metric(
    "ndcg@10",
    display="nDCG@10",
    mteb="ndcg_at_10",
    by_language=("mono", "multi"),
    judged_pool_headline=("mono",),
)
def ndcg_at_10(judged: RankedJudgements) -> np.ndarray:
    """Compute the normalised discounted cumulative gain of the first 10 passages."""
    return ndcg(judged.ranks, 10, judged.grades)


@metric("recall@1", display="recall@1", mteb="recall_at_1")
def recall_at_1(judged: RankedJudgements) -> np.ndarray:
    """Compute the fraction of the relevant passages that is ranked first."""
    return recall(judged.ranks, 1)


@metric("recall@10", display="recall@10", mteb="recall_at_10")
def recall_at_10(judged: RankedJudgements) -> np.ndarray:
    """Compute the fraction of the relevant passages among the first 10."""
    return recall(judged.ranks, 10)


@metric(
    "recall@100",
    display="recall@100",
    mteb="recall_at_100",
    by_language=("mono", "multi"),
    judged_pool_headline=("mono",),
)
def recall_at_100(judged: RankedJudgements) -> np.ndarray:
    """Compute the fraction of the relevant passages among the first 100."""
    return recall(judged.ranks, 100)


@metric("success@10", display="success@10", mteb="hit_rate_at_10")
def success_at_10(judged: RankedJudgements) -> np.ndarray:
    """Compute whether a relevant passage is among the first 10: 1 or 0."""
    return success(judged.ranks, 10)


@metric("mrr", column="rr", display="mrr")
def mean_reciprocal_rank(judged: RankedJudgements) -> np.ndarray:
    """Compute the reciprocal rank of the first relevant passage."""
    return reciprocal_rank(judged.ranks)


@metric("mrr@10", column="rr@10", display="mrr@10", mteb="mrr_at_10")
def mean_reciprocal_rank_at_10(judged: RankedJudgements) -> np.ndarray:
    """Compute the reciprocal rank of the first relevant passage, 0 where it is not among the first 10."""
    return reciprocal_rank(judged.ranks, 10)


@metric(
    "rank_distance",
    display="rank distance",
    unit="ranks",
    higher_is_better=False,
    settings=("multi",),
    display_with_setting=False,
    by_language=("multi",),
    headline=("multi",),
)
def rank_distance_of_languages(judged: RankedJudgements) -> np.ndarray:
    """Compute the rank distance; NaN for a query whose found passages are all in one language."""
    ranks = judged.bounded_ranks
    return np.where(_several_languages(ranks, judged.passage_languages), rank_distance(ranks), np.nan)


@metric(
    "max_rank",
    display="max rank",
    unit="ranks",
    higher_is_better=False,
    settings=("multi",),
    display_with_setting=False,
    by_language=("multi",),
)
def max_rank_of_languages(judged: RankedJudgements) -> np.ndarray:
    """Compute the rank by which all relevant passages are found; NaN as for rank distance."""
    ranks = judged.bounded_ranks
    return np.where(_several_languages(ranks, judged.passage_languages), language_bias.max_rank(ranks), np.nan)


@metric("complete@10", display="complete@10", settings=("multi",), display_with_setting=False)
def complete_at_10(judged: RankedJudgements) -> np.ndarray:
    """Compute whether all relevant passages are among the first 10: 1 or 0; NaN where there are more than 10."""
    return language_bias.complete(judged.ranks, 10)


@metric("complete@20", display="complete@20", settings=("multi",), display_with_setting=False)
def complete_at_20(judged: RankedJudgements) -> np.ndarray:
    """Compute whether all relevant passages are among the first 20: 1 or 0; NaN where there are more than 20."""
    return language_bias.complete(judged.ranks, 20)


@metric("complete@100", display="complete@100", settings=("multi",), display_with_setting=False)
def complete_at_100(judged: RankedJudgements) -> np.ndarray:
    """Compute whether all relevant passages are among the first 100: 1 or 0; NaN where there are more than 100."""
    return language_bias.complete(judged.ranks, 100)


@metric(
    "same_language_first",
    display="same language first",
    higher_is_better=False,
    settings=("multi",),
    by_language=("multi",),
)
def same_language_first(judged: RankedJudgements) -> np.ndarray:
    """Compute whether the first relevant passage is in the query's language: 1 or 0."""
    is_query_language = judged.passage_languages == judged.query_language
    return language_bias.same_language_first(judged.bounded_ranks, is_query_language)


@metric("peer@100", column="peer", display="peer@100", settings=("multi",))
def peer_at_100(judged: RankedJudgements) -> np.ndarray:
    """Compute the Probability of Equal Expected Rank over the first 100 passages."""
    return language_bias.peer(judged.bounded_ranks, judged.passage_languages, judged.grades, PEER_DEPTH)


@metric("map_matched", column="ap_matched", display="size-matched mAP", settings=("mono", "cross"))
def size_matched_average_precision(judged: RankedJudgements) -> np.ndarray:
    """Compute the average precision expected in a random part of the pool, as large as the smallest language's pool."""
    if judged.depth is not None or judged.num_passages is None:
        return np.full(len(judged.ranks), np.nan)
    return expected_average_precision(judged.ranks, judged.num_passages, judged.smallest_pool)


def compute_all(judged: RankedJudgements, setting: Setting) -> dict[str, np.ndarray]:
    """Compute every metric that exists in a setting: column of the per-query table -> (Q,) float64."""
    return {one.column: one.compute(judged) for one in METRICS.values() if setting in one.settings}


def find_metric(full_name: str) -> Metric:
    """Return the metric in a name such as `xquad-r/multi/rank_distance/ar`.

    >>> find_metric("xquad-r/multi/rank_distance/ar").higher_is_better
    False
    >>> find_metric("miracl/mono/map@1000").name
    'map'
    >>> find_metric("xquad-r/gap/map").higher_is_better  # of a gap, less is better
    False

    Raises:
        UserError: the name holds none.
    """
    _, setting, name, *_ = *full_name.split("/"), "", "", ""
    found = _lookup(name)
    if found is None:
        raise UserError(
            f"{full_name!r} is not a metric; write <benchmark>/<mono, cross or multi>/<{', '.join(METRICS)}>"
        )
    return replace(found, higher_is_better=False) if setting == GAP else found


def display_name(full_name: str) -> str:
    """Return a metric's name as tables and figures show it; its benchmark may be left out.

    >>> display_name("multi/map"), display_name("multi/rank_distance")
    ('multi mAP', 'rank distance')
    >>> display_name("miracl/mono/ndcg@10/low-resource"), display_name("worst_drop/beir-scifact/multi/map")
    ('miracl mono nDCG@10, low-resource', 'worst drop of beir-scifact multi mAP')
    """
    prefix, _, rest = full_name.partition("/")
    if prefix in (DROP, WORST_DROP):
        return f"{prefix.replace('_', ' ')} of {display_name(rest)}"
    parts = full_name.split("/")
    if len(parts) > 1 and _lookup(parts[1]) is not None:
        parts = ["", *parts]
    benchmark, setting, name, part, *_ = *parts, "", "", "", ""
    found = _lookup(name)
    words = name.replace("_", " ") if found is None else found.display + name.removeprefix(found.name)
    with_setting = benchmark or found is None or found.display_with_setting
    shown = " ".join(filter(None, (benchmark, setting if with_setting else "", words)))
    return f"{shown}, {part}" if part else shown


def _lookup(name: str) -> Metric | None:
    """Return the metric of a name with or without a depth, such as `map@1000`."""
    return METRICS.get(name) or METRICS.get(name.partition("@")[0])


def _several_languages(ranks: np.ndarray, languages: np.ndarray) -> np.ndarray:
    """Return whether the passages found are in more than one language: (Q, R), (Q, R) -> (Q,) bool."""
    found = ranks > 0
    first = languages[np.arange(len(ranks)), found.argmax(axis=1)]
    several: np.ndarray = (found & (languages != first[:, None])).any(axis=1)
    return several


# Formulas: from ranks to a value of each query


def average_precision(ranks: np.ndarray) -> np.ndarray:
    """Return the precision at each relevant passage's rank, summed and divided by the number of relevant passages.

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
    return _per_relevant(precisions.sum(axis=1), ranks)


def reciprocal_rank(ranks: np.ndarray, k: int | None = None) -> np.ndarray:
    """Return 1 / rank of the first relevant passage, trec_eval's `recip_rank`: (Q, R) -> (Q,), 0 where there is none.

    >>> reciprocal_rank(np.array([[5, 2], [0, 0]])).tolist()
    [0.5, 0.0]

    Args:
        ranks: (Q, R).
        k: number of passages that count; None: all.
    """
    counts = (ranks > 0) if k is None else (ranks > 0) & (ranks <= k)
    inverse = np.divide(1.0, ranks, where=counts, out=np.zeros(ranks.shape))
    best: np.ndarray = inverse.max(axis=1, initial=0.0)
    return best


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return the fraction of the relevant passages among the first k, trec_eval's `recall`: (Q, R) -> (Q,).

    A query without relevant passages has 0.

    >>> recall(np.array([[1, 11, 12], [0, 0, 0]]), 11).tolist()
    [0.6666666666666666, 0.0]
    """
    return _per_relevant(((ranks > 0) & (ranks <= k)).sum(axis=1), ranks)


def success(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return 1 where a relevant passage is among the first k, else 0; trec_eval's `success`: (Q, R) -> (Q,).

    >>> success(np.array([[11, 3], [0, 0]]), 10).tolist()
    [1.0, 0.0]
    """
    return ((ranks > 0) & (ranks <= k)).any(axis=1).astype(float)


def ndcg(ranks: np.ndarray, k: int, grades: np.ndarray | None = None) -> np.ndarray:
    """Return the discounted gain of the first k, divided by that of the best order; trec_eval's `ndcg_cut`.

    The gain of a passage is its grade (not 2**grade - 1), its discount is log2(rank + 1). Järvelin and Kekäläinen 2002.

    >>> ndcg(np.array([[2, 0]]), 10).round(4).tolist()  # (1 / log2 3) / (1 / log2 2)
    [0.6309]

    Args:
        ranks: (Q, R).
        k: number of passages that count.
        grades: (Q, R), > 0 where there is a rank or NOT_RETRIEVED; None: all 1.

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
    """Return the highest minus the lowest rank of the relevant passages: (Q, R) -> (Q,), NaN with fewer than two.

    The metric of language bias of Elmahdy et al. 2024, arXiv 2408.10536: small where the relevant passages of all
    languages have nearly the same rank. A random order of P passages with n relevant gives
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
    """Return the ranks ascending, and a mask of those that are ranks (empty entries come last): (Q, R), (Q, R)."""
    ordered = np.sort(np.where(ranks > 0, ranks.astype(np.int64), np.iinfo(np.int64).max), axis=1)
    return ordered, np.sort(ranks > 0, axis=1)[:, ::-1]


def _per_relevant(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Divide by the number of relevant passages: (Q,), 0 where there is none."""
    relevant = (ranks != 0).sum(axis=1)
    return np.divide(values, relevant, where=relevant > 0, out=np.zeros(len(ranks)))


# Of a benchmark, the most important first; with those of training a run has at most 30 metrics.
_TRACKED = (
    *("mono/map", "cross/map", "multi/map", "multi/rank_distance", "gap/map", "multi/ndcg@10"),
    *("multi/consistency", "mono/ndcg@10", "cross/ndcg@10"),
)
MAX_TRACKED = 20


def tracked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Select the metrics of reports that are logged one by one, at most MAX_TRACKED; all others are in the reports.

    With several benchmarks, the first metric of each comes before the second of any.

    Args:
        metrics: by full name, such as "xquad-r/mono/map", of one or several benchmarks. The name may have the depth
            of an approximate index.
    """
    ranked = []
    for name in metrics:
        _, _, short = name.partition("/")
        candidates = (short, short.partition("@")[0])
        priority = next((_TRACKED.index(one) for one in candidates if one in _TRACKED), None)
        if priority is not None:
            ranked.append((priority, name))
    chosen = {name for _, name in sorted(ranked, key=lambda entry: entry[0])[:MAX_TRACKED]}
    return {name: value for name, value in metrics.items() if name in chosen}


def headline_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return mAP in the three settings and rank distance: benchmark -> metric, such as "mono/map" -> value."""
    found: dict[str, dict[str, float]] = {}
    for name in _TRACKED[:4]:
        for full_name, value in metrics.items():
            benchmark, _, short = full_name.partition("/")
            if short.partition("@")[0] == name:
                found.setdefault(benchmark, {})[short] = value
    return found


def metric_rows(metrics: Mapping[str, float]) -> list[dict[str, object]]:
    """Return a row for each metric of reports, with its benchmark, setting, name, part and value."""
    rows: list[dict[str, object]] = []
    for name, value in metrics.items():
        benchmark, setting, metric_name, *part = name.split("/")
        row = {"benchmark": benchmark, "setting": setting, "metric": metric_name, "of": "/".join(part), "value": value}
        rows.append(row)
    return rows
