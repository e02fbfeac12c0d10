"""From vectors and judgements to metrics: of every query in every pool, and their averages.

A benchmark of L languages has L monolingual pools, L * (L - 1) ordered pairs of query and passage language, and one
pool of all passages that is searched with the queries of each language. All ranks come from one pass over the scores.

Legend: Q queries, R relevant passages of the query that has most, N queries of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pyarrow as pa

from hbt_ray.data.language_resources import resource_level
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.judgement_arrays import (
    RelevantPassages,
    excluded_indices,
    language_spans,
    mark_absent,
    remove_excluded,
)
from hbt_ray.evaluation.language_gap import GAP_METRICS, LanguageGap, language_gap
from hbt_ray.evaluation.metrics import GAP, METRICS, SETTINGS, RankedJudgements, Setting, compute_all
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.passage_index import LocalShards, PassageIndex
from hbt_ray.retrieval.passage_shard import Span, is_within

LEVELS = ("low-resource", "mid-resource", "high-resource")  # of languages
WORST_TENTH = "worst-tenth"  # of languages


@dataclass(frozen=True, slots=True)
class RetrievalMetrics:
    """The result of `compute_retrieval_metrics`."""

    metrics: dict[str, float]  # full name, such as "xquad-r/mono/map" -> value
    intervals: dict[str, tuple[float, float]]  # full name of a gap -> its 95% confidence interval, if it is known
    per_query: pa.Table  # a row for each query in each pool; see `_per_query_table` for the columns
    matrix: np.ndarray  # (L, L) mAP by query and passage language, NaN where no query has a judgement
    relevant: RelevantPassages
    ranks: np.ndarray  # (Q, R) of these among all passages; 0 where there is none, NOT_RETRIEVED where it is not found
    language_ranks: np.ndarray  # (Q, R) the same among the passages of their language


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """The N queries of one language that count in one pool."""

    setting: Setting
    query_language: str
    passage_language: str | None  # None: all
    rows: np.ndarray  # (N,) indices of the queries in the benchmark
    ranks: np.ndarray  # (N, R)
    values: dict[str, np.ndarray]  # column of the per-query table -> (N,)


def compute_retrieval_metrics(benchmark: Benchmark, query_vectors: np.ndarray, index: PassageIndex) -> RetrievalMetrics:
    """Compute every metric of every query within each language's passages, and among all passages.

    1. Rank the relevant passages of each query within each language, and among all.
    2. Leave the excluded passages out of the ranks, and mark the absent ones as not retrieved.
    3. Group the queries by query language and pool, and compute their metrics.
    4. Average over queries, then over groups.

    Which queries count: a pair of query and passage language counts the queries that have a judgement there. A query
    without any relevant passage counts 0 in its own language and in the pool of all languages, which counts every
    query. A relevant passage that the pool lacks counts as never retrieved; so does one that an approximate index did
    not list, except in the metrics of language bias (see `RankedJudgements.bounded_ranks`).

    Averages are macro-averages: over queries, then over languages (mono, multi) or ordered pairs (cross). A query for
    which a metric is not defined (NaN) is left out of that metric's average.

    Args:
        benchmark: the queries, passages and judgements.
        query_vectors: (Q, D) float32, in the order of the benchmark's queries.
        index: the benchmark's passages.

    Raises:
        UserError: the vectors hold NaN, or their widths differ.
    """
    # 1. Ranks, of the relevant passages and of the excluded one
    relevant = RelevantPassages.of(benchmark)
    spans = language_spans(benchmark)
    excluded = excluded_indices(benchmark)[:, None]
    ranks = index.ranks(
        query_vectors, np.hstack([relevant.passage_indices, excluded]), [*spans.values(), slice(None)]
    )  # (passage languages + 1, Q, R + 1)
    # 2. Excluded and absent passages
    ranks = remove_excluded(ranks, relevant.passage_indices == excluded)
    mark_absent(ranks, relevant, list(spans))
    # 3. Metrics of each query
    groups = list(_query_groups(benchmark, spans, ranks, relevant, index.depth))
    # 4. Averages
    gaps = _gaps(benchmark, groups, index.depth)
    return RetrievalMetrics(
        metrics=_averages(benchmark.name, groups, gaps, index.depth),
        intervals={name: (gap.low, gap.high) for name, gap in gaps.items() if np.isfinite(gap.low)},
        per_query=_per_query_table(benchmark, groups),
        matrix=_language_matrix(benchmark.languages, groups),
        relevant=relevant,
        ranks=ranks[-1],
        language_ranks=ranks[:-1].sum(axis=0),  # 0 in all languages but one
    )


def run_file_metrics(benchmark: Benchmark, result: RetrievalMetrics, depth: int) -> dict[str, float]:
    """Compute what trec_eval computes from the first `depth` passages of the pool of all languages.

    A relevant passage beyond them counts as never retrieved, and the mean is over the questions that have a judgement.

    Returns:
        A metric's name -> value, for the metrics that exist in all settings.
    """
    judged = np.array([bool(benchmark.judgements.get(query.query_id)) for query in benchmark.queries])
    relevant = result.relevant
    ranked = RankedJudgements(
        ranks=np.where(result.ranks > depth, NOT_RETRIEVED, result.ranks)[judged],
        grades=relevant.grades[judged],
        passage_languages=relevant.passage_languages[judged],
        is_in_pool=relevant.passage_indices[judged] >= 0,
        query_language="",
    )
    names = [metric for metric in METRICS.values() if set(metric.settings) == set(SETTINGS)]
    return {metric.name: float(metric.compute(ranked).mean()) for metric in names} if judged.any() else {}


class _FirstRanks(PassageIndex):
    """An index without vectors, in which every passage has rank 1."""

    def __init__(self) -> None:
        super().__init__(LocalShards([]))

    def ranks(self, queries: np.ndarray, relevant: np.ndarray, spans: Sequence[Span] = (slice(None),)) -> np.ndarray:
        last = int(relevant.max(initial=0)) + 1  # `is_within` needs the ends of a slice
        spans = [slice(*span.indices(last)) if isinstance(span, slice) else span for span in spans]
        return np.stack([is_within(relevant, span) for span in spans]).astype(np.int32)


def judged_queries(benchmark: Benchmark) -> pa.Table:
    """Return the per-query table of an evaluation without a model, in which every relevant passage has rank 1.

    It has the rows and columns of any evaluation, so it shows which metrics have a value on the benchmark.
    """
    return compute_retrieval_metrics(benchmark, np.empty((len(benchmark.queries), 1)), _FirstRanks()).per_query


def _query_groups(
    benchmark: Benchmark,
    spans: Mapping[str, Span],
    ranks: np.ndarray,
    relevant: RelevantPassages,
    depth: int | None,
) -> Iterator[QueryGroup]:
    """Yield every query language in every pool; ranks are (passage languages + 1, Q, R), all passages last."""
    query_languages = np.array([query.language for query in benchmark.queries])
    excluded = excluded_indices(benchmark)
    sizes = {
        language: (span.stop - span.start if isinstance(span, slice) else len(span)) for language, span in spans.items()
    }
    smallest = min(filter(None, sizes.values()), default=0)
    is_cross = ((relevant.grades > 0) & (relevant.passage_languages != query_languages[:, None])).any()
    has_none = (relevant.grades == 0).all(axis=1)
    for language in sorted(set(query_languages.tolist())):
        of_language = np.flatnonzero(query_languages == language)
        for number, (passage_language, span) in enumerate(spans.items()):
            counts = (ranks[number, of_language] != 0).any(axis=1)
            setting: Setting = "mono" if passage_language == language else "cross"
            if setting == "mono":
                counts |= has_none[of_language]
            if not counts.any():
                continue
            rows = of_language[counts]
            judged = _judgements(relevant, rows, ranks[number, rows], language, depth)
            if is_cross:  # pools are compared
                num_passages = sizes[passage_language] - is_within(excluded[rows], span)
                judged = replace(judged, num_passages=num_passages, smallest_pool=smallest)
            yield QueryGroup(setting, language, passage_language, rows, judged.ranks, compute_all(judged, setting))
        judged = _judgements(relevant, of_language, ranks[-1, of_language], language, depth)
        yield QueryGroup("multi", language, None, of_language, judged.ranks, compute_all(judged, "multi"))


def _judgements(
    relevant: RelevantPassages, rows: np.ndarray, ranks: np.ndarray, query_language: str, depth: int | None
) -> RankedJudgements:
    return RankedJudgements(
        ranks=ranks,
        grades=relevant.grades[rows],
        passage_languages=relevant.passage_languages[rows],
        is_in_pool=relevant.passage_indices[rows] >= 0,
        query_language=query_language,
        depth=depth,
    )


def _averages(
    benchmark: str, groups: Sequence[QueryGroup], gaps: Mapping[str, LanguageGap], depth: int | None
) -> dict[str, float]:
    """Average every metric; the metrics of a setting come before those of a language or pair."""
    overall: dict[str, float] = {}
    detailed: dict[str, float] = {}
    for setting in SETTINGS:
        for metric in METRICS.values():
            means = {
                "-".join(
                    filter(None, (group.query_language, group.passage_language if setting == "cross" else None))
                ): (float(np.nanmean(group.values[metric.column])))
                for group in groups
                if group.setting == setting and not np.isnan(group.values.get(metric.column, np.nan)).all()
            }
            if means:
                name = f"{benchmark}/{setting}/{metric.name_at(depth)}"
                overall[name] = float(np.mean(list(means.values())))
                if setting in metric.by_language:
                    detailed |= {f"{name}/{part}": mean for part, mean in means.items()}
                if setting != "cross":
                    overall |= {f"{name}/{level}": mean for level, mean in _by_resource_level(means).items()}
                    if setting in (*metric.headline, *metric.judged_pool_headline) and len(means) > 1:
                        overall[f"{name}/{WORST_TENTH}"] = _worst_tenth(means, metric.higher_is_better)
    for name, gap in gaps.items():
        overall[name] = gap.mean
        overall |= {f"{name}/{language}": value for language, value in gap.by_language.items()}
    return overall | detailed


def _by_resource_level(means: dict[str, float]) -> dict[str, float]:
    """Average over the languages of each resource level; empty where all languages have the same level."""
    of_level: dict[str, list[float]] = {}
    for language, mean in means.items():
        level = resource_level(language)
        if level is not None:
            of_level.setdefault(f"{level}-resource", []).append(mean)
    if len(of_level) < 2:
        return {}
    return {level: float(np.mean(of_level[level])) for level in LEVELS if level in of_level}


def _worst_tenth(means: dict[str, float], higher_is_better: bool) -> float:
    """Average over the tenth of languages, rounded up, in which a metric is worst.

    >>> _worst_tenth({"de": 0.9, "sw": 0.2, "en": 0.8}, True)
    0.2
    """
    best_first = sorted(means.values(), reverse=higher_is_better)
    return float(np.mean(best_first[-ceil(len(means) / 10) :]))


def _gaps(benchmark: Benchmark, groups: Sequence[QueryGroup], depth: int | None) -> dict[str, LanguageGap]:
    """Compute mono minus cross of each metric that is defined for every query: full name -> gap."""
    numbers: dict[str, int] = {}
    clusters = (query.cluster or query.group or query.query_id for query in benchmark.queries)
    cluster_of = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], np.int64)
    pools = {
        (group.query_language, group.passage_language): group for group in groups if group.passage_language is not None
    }
    gaps = {}
    for metric in (METRICS[name] for name in GAP_METRICS):
        values = {pair: group.values[metric.column] for pair, group in pools.items()}
        if not any(np.isnan(of_pair).any() for of_pair in values.values()):
            gap = language_gap(values, {pair: cluster_of[group.rows] for pair, group in pools.items()})
            if gap is not None:
                gaps[f"{benchmark.name}/{GAP}/{metric.name_at(depth)}"] = gap
    return gaps


def _per_query_table(benchmark: Benchmark, groups: Sequence[QueryGroup]) -> pa.Table:
    """Build the per-query table.

    Columns: query_id, group (equal for translations of a query), language, setting, passage_language (null for multi),
    the metrics of all settings, relevant (their number), ranks (ascending, of the passages that the pool has), the
    metrics of some settings (null elsewhere, and where they are not defined), and cluster (equal for queries that are
    not independent; tables of earlier versions have none).
    """
    sizes = [len(group.rows) for group in groups]
    rows = np.concatenate([group.rows for group in groups])
    ranks = np.concatenate([group.ranks for group in groups])  # (rows, R)
    num_ranks = (ranks > 0).sum(axis=1)
    ascending = np.sort(ranks, axis=1)
    query_groups = np.array([query.group or query.query_id for query in benchmark.queries], object)
    clusters = np.array([query.cluster or query.group or query.query_id for query in benchmark.queries], object)
    query_ids = np.array([query.query_id for query in benchmark.queries], object)
    query_languages = np.repeat(np.array([group.query_language for group in groups], object), sizes)
    passage_languages = np.repeat(np.array([group.passage_language for group in groups], object), sizes)
    settings = np.repeat(np.array([group.setting for group in groups], object), sizes)
    return pa.table(
        {
            "query_id": pa.array(query_ids[rows], pa.string()),
            "group": pa.array(query_groups[rows], pa.string()),
            "language": pa.array(query_languages, pa.string()),
            "setting": pa.array(settings, pa.string()),
            "passage_language": pa.array(passage_languages, pa.string()),
            **_metric_columns(groups, in_all_settings=True),
            "relevant": (ranks != 0).sum(axis=1).astype(np.int32),
            "ranks": pa.ListArray.from_arrays(
                np.concatenate([[0], np.cumsum(num_ranks)]).astype(np.int32), ascending[ascending > 0]
            ),
            **_metric_columns(groups, in_all_settings=False),
            "cluster": pa.array(clusters[rows], pa.string()),
        }
    )


def _metric_columns(groups: Sequence[QueryGroup], *, in_all_settings: bool) -> dict[str, pa.Array]:
    """Return the columns, (rows,) each, of the metrics that exist in all settings, or of the other metrics.

    The others are null in rows of other settings, and where they are NaN.
    """
    columns = {}
    for metric in METRICS.values():
        if in_all_settings == (set(metric.settings) == set(SETTINGS)):
            values = [group.values.get(metric.column, np.full(len(group.rows), np.nan)) for group in groups]
            columns[metric.column] = pa.array(np.concatenate(values), pa.float64(), from_pandas=not in_all_settings)
    return columns


def _language_matrix(languages: Sequence[str], groups: Sequence[QueryGroup]) -> np.ndarray:
    index_of = {language: index for index, language in enumerate(languages)}
    matrix = np.full((len(languages), len(languages)), np.nan)
    for group in groups:
        if group.passage_language is not None:
            matrix[index_of[group.query_language], index_of[group.passage_language]] = group.values["ap"].mean()
    return matrix
