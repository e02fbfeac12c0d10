"""Vectors and judgements to measures: of every query in every pool, and their averages.

For a benchmark of L languages there are L monolingual pools, L * (L - 1) ordered pairs of question and passage
language, and one pool of everything, asked in each of the L languages. All of it comes from one pass over the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from hbt_ray.data.benchmarks.miracl import resource_level
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.metrics import GAP, METRICS, SETTINGS, RankedJudgements, Setting, compute_all
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import Span

LEVELS = ("low-resource", "mid-resource", "high-resource")  # of languages, where they differ


@dataclass(frozen=True, slots=True)
class RelevantPassages:
    """The relevant passages of each query, (Q, R), where a query has fewer than R: -1, 0, ""."""

    columns: np.ndarray  # -1 also where the pool lacks the passage
    grades: np.ndarray
    languages: np.ndarray  # of the passages, those that are absent as well


@dataclass(frozen=True, slots=True)
class RetrievalMetrics:
    """What the vectors of a benchmark come to."""

    metrics: dict[str, float]
    per_query: pa.Table  # a row for each query in each pool; see `_table` for the columns
    matrix: np.ndarray  # (L, L) mAP by question and passage language, NaN where no query has a judgement
    judged: RelevantPassages


@dataclass(frozen=True, slots=True)
class _QueryGroup:
    """The queries of one language measured in one pool."""

    setting: Setting
    language: str
    passage_language: str | None  # None: all
    rows: np.ndarray  # (N,) places of the queries in the benchmark
    ranks: np.ndarray  # (N, R)
    columns: dict[str, np.ndarray]  # column of the per-query table -> (N,)


def compute_retrieval_metrics(benchmark: Benchmark, query_vectors: np.ndarray, pool: PassageIndex) -> RetrievalMetrics:
    """Measures every query within each language's passages, and among those of all.

    A cell of question and passage language counts the queries that have a judgement there. A query without any
    relevant passage counts 0 in its own language and in the pool of all languages, which counts every query. A
    relevant passage that the pool lacks counts as never found; so does one that an approximate index did not list, but
    in rank distance, PEER and same language first, where it stands right behind the index's depth. Averages are macro:
    over queries, then over languages (mono, multi) or ordered pairs (cross). Rank distance and same language first are
    means over a language's queries with relevant passages in two languages, then over languages.

    Args:
        query_vectors: (Q, D) float32, in the order of the benchmark.
        pool: the benchmark's passages.

    Raises:
        UserError: the vectors hold NaN, or their widths differ.
    """
    judged = _judged(benchmark)
    spans = language_spans(benchmark)
    own = excluded_columns(benchmark)[:, None]
    ranks = pool.ranks(query_vectors, np.hstack([judged.columns, own]), [*spans.values(), slice(None)])
    ranks = _without(ranks, judged.columns == own)
    _note_absent(ranks, judged, list(spans))
    cells = list(_cells(benchmark, list(spans), ranks, judged, pool.depth))
    return RetrievalMetrics(
        _metrics(benchmark.name, cells, pool.depth),
        _table(benchmark, cells),
        _matrix(benchmark.languages, cells),
        judged,
    )


def _judged(benchmark: Benchmark) -> RelevantPassages:
    column_of = {passage.passage_id: column for column, passage in enumerate(benchmark.passages)}
    language_of = {passage.passage_id: passage.language for passage in benchmark.passages} | dict(benchmark.absent)
    judged = [
        sorted((column_of.get(key, -1), language_of[key], grade) for key, grade in judgements.items() if grade > 0)
        for judgements in (benchmark.judgements.get(query.query_id, {}) for query in benchmark.queries)
    ]
    shape = (len(judged), max(1, *map(len, judged)))
    columns, grades = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    languages = np.full(shape, "", object)
    for row, found in enumerate(judged):
        if found:
            columns[row, : len(found)], languages[row, : len(found)], grades[row, : len(found)] = zip(
                *found, strict=True
            )
    return RelevantPassages(columns, grades, languages)


def excluded_columns(benchmark: Benchmark) -> np.ndarray:
    """Of each query the column of the passage that it is itself, -1 for none: (Q,) int64."""
    if not benchmark.excluded:
        return np.full(len(benchmark.queries), -1, np.int64)
    column_of = {passage.passage_id: column for column, passage in enumerate(benchmark.passages)}
    own = [column_of.get(benchmark.excluded.get(query.query_id, ""), -1) for query in benchmark.queries]
    return np.array(own, np.int64)


def _without(ranks: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Ranks as they are without the excluded passage, whose own come last.

    Args:
        ranks: (spans, Q, R + 1).
        excluded: (Q, R) whether a relevant passage is the excluded one: it is never found.
    """
    own = ranks[..., -1:]
    below = (own > 0) & (ranks[..., :-1] > own)
    without: np.ndarray = ranks[..., :-1] - below
    without[(without > 0) & excluded] = NOT_RETRIEVED
    return without


def _note_absent(ranks: np.ndarray, judged: RelevantPassages, passage_languages: Sequence[str]) -> None:
    """Writes into (passage languages + 1, Q, R) ranks which relevant passages cannot be found."""
    absent = (judged.columns < 0) & (judged.grades > 0)
    if not absent.any():
        return
    for number, language in enumerate(passage_languages):
        ranks[number][absent & (judged.languages == language)] = NOT_RETRIEVED
    ranks[-1][absent] = NOT_RETRIEVED


def language_spans(benchmark: Benchmark) -> dict[str, Span]:
    """The passages of each language, as a slice where they stand side by side; of some languages all may be absent."""
    runs = [(key, len(list(group))) for key, group in groupby(passage.language for passage in benchmark.passages)]
    ends = np.cumsum([length for _, length in runs])
    spans: dict[str, list[slice]] = {}
    for (language, length), end in zip(runs, ends.tolist(), strict=True):
        spans.setdefault(language, []).append(slice(end - length, end))
    nothing = slice(0, 0)
    return {
        language: np.r_[tuple(spans[language])]
        if len(spans.get(language, ())) > 1
        else [*spans.get(language, ()), nothing][0]
        for language in sorted({*spans, *benchmark.absent.values()})
    }


def _cells(
    benchmark: Benchmark,
    passage_languages: Sequence[str],
    ranks: np.ndarray,
    judged: RelevantPassages,
    depth: int | None,
) -> Iterator[_QueryGroup]:
    """Every query language in every pool; ranks are (passage languages + 1, Q, R), all passages last."""
    language_of = np.array([query.language for query in benchmark.queries])
    without = (judged.grades == 0).all(axis=1)
    for language in sorted(set(language_of.tolist())):
        asked = np.flatnonzero(language_of == language)
        for number, passage_language in enumerate(passage_languages):
            counted = (ranks[number, asked] != 0).any(axis=1)
            setting: Setting = "mono" if passage_language == language else "cross"
            if setting == "mono":
                counted |= without[asked]
            if not counted.any():
                continue
            rows = asked[counted]
            yield _query_group(setting, language, passage_language, rows, ranks[number, rows], judged, depth)
        yield _query_group("multi", language, None, asked, ranks[-1, asked], judged, depth)


def _query_group(
    setting: Setting,
    language: str,
    passage_language: str | None,
    rows: np.ndarray,
    ranks: np.ndarray,
    judged: RelevantPassages,
    depth: int | None,
) -> _QueryGroup:
    ranked = RankedJudgements(
        ranks, judged.grades[rows], judged.languages[rows], judged.columns[rows] >= 0, language, depth
    )
    return _QueryGroup(setting, language, passage_language, rows, ranks, compute_all(ranked, setting))


def _metrics(benchmark: str, cells: Sequence[_QueryGroup], depth: int | None) -> dict[str, float]:
    """Averages of every measure, whole ones before those of a language or pair."""
    whole: dict[str, float] = {}
    detailed: dict[str, float] = {}
    for setting in SETTINGS:
        for measure in METRICS.values():
            means = {
                "-".join(filter(None, (cell.language, cell.passage_language if setting == "cross" else None))): float(
                    np.nanmean(cell.columns[measure.column])
                )
                for cell in cells
                if cell.setting == setting and not np.isnan(cell.columns.get(measure.column, np.nan)).all()
            }
            if means:
                name = f"{benchmark}/{setting}/{measure.name_at(depth)}"
                whole[name] = float(np.mean(list(means.values())))
                if setting in measure.by_language:
                    detailed |= {f"{name}/{part}": mean for part, mean in means.items()}
                if setting != "cross":
                    whole |= {f"{name}/{level}": mean for level, mean in _by_resources(means).items()}
    return whole | _gaps(benchmark, cells, depth) | detailed


def _by_resources(means: dict[str, float]) -> dict[str, float]:
    """Means over the languages with few, some and many resources; nothing where all are of one level."""
    levels: dict[str, list[float]] = {}
    for language, mean in means.items():
        level = resource_level(language)
        if level is not None:
            levels.setdefault(f"{level}-resource", []).append(mean)
    return {level: float(np.mean(levels[level])) for level in LEVELS if level in levels} if len(levels) > 1 else {}


def _gaps(benchmark: str, cells: Sequence[_QueryGroup], depth: int | None) -> dict[str, float]:
    """Mono minus Cross: of each question language its mAP within it less the mean of those in other languages."""
    mono = {cell.language: cell.columns["ap"].mean() for cell in cells if cell.setting == "mono"}
    cross: dict[str, list[float]] = {}
    for cell in cells:
        if cell.setting == "cross":
            cross.setdefault(cell.language, []).append(cell.columns["ap"].mean())
    gaps = {language: float(mono[language] - np.mean(own)) for language, own in cross.items() if language in mono}
    name = f"{benchmark}/{GAP}/{METRICS['map'].name_at(depth)}"
    whole = {name: float(np.mean(list(gaps.values())))} if gaps else {}
    return whole | {f"{name}/{language}": gap for language, gap in gaps.items()}


def _table(benchmark: Benchmark, cells: Sequence[_QueryGroup]) -> pa.Table:
    """The per-query table.

    Columns: query_id, group (the same for translations of one question), language, setting, passage_language (null for
    multi), the measures, relevant (their number), ranks (ascending, of those that the pool has), rank_distance,
    same_language_first and peer (null but for multi with relevant passages in two languages).
    """
    sizes = [len(cell.rows) for cell in cells]
    rows = np.concatenate([cell.rows for cell in cells])
    ranks = np.concatenate([cell.ranks for cell in cells])  # (rows, R)
    found = (ranks > 0).sum(axis=1)
    ordered = np.sort(ranks, axis=1)
    groups = np.array([query.group or query.query_id for query in benchmark.queries], object)
    query_ids = np.array([query.query_id for query in benchmark.queries], object)
    languages = np.repeat(np.array([cell.language for cell in cells], object), sizes)
    passage_languages = np.repeat(np.array([cell.passage_language for cell in cells], object), sizes)
    return pa.table(
        {
            "query_id": pa.array(query_ids[rows], pa.string()),
            "group": pa.array(groups[rows], pa.string()),
            "language": pa.array(languages, pa.string()),
            "setting": pa.array(np.repeat(np.array([cell.setting for cell in cells], object), sizes), pa.string()),
            "passage_language": pa.array(passage_languages, pa.string()),
            **_metric_columns(cells, everywhere=True),
            "relevant": (ranks != 0).sum(axis=1).astype(np.int32),
            "ranks": pa.ListArray.from_arrays(
                np.concatenate([[0], np.cumsum(found)]).astype(np.int32), ordered[ordered > 0]
            ),
            **_metric_columns(cells, everywhere=False),
        }
    )


def _metric_columns(cells: Sequence[_QueryGroup], *, everywhere: bool) -> dict[str, pa.Array]:
    """Return the columns of the metrics that exist in all settings, or else of the others: (rows,) each.

    The others are null in rows of other settings, and where they are NaN.
    """
    found = {}
    for metric in METRICS.values():
        if everywhere == (set(metric.settings) == set(SETTINGS)):
            values = [cell.columns.get(metric.column, np.full(len(cell.rows), np.nan)) for cell in cells]
            found[metric.column] = pa.array(np.concatenate(values), pa.float64(), from_pandas=not everywhere)
    return found


def _matrix(languages: Sequence[str], cells: Sequence[_QueryGroup]) -> np.ndarray:
    place = {language: number for number, language in enumerate(languages)}
    matrix = np.full((len(languages), len(languages)), np.nan)
    for cell in cells:
        if cell.passage_language is not None:
            matrix[place[cell.language], place[cell.passage_language]] = cell.columns["ap"].mean()
    return matrix
