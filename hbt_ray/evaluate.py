"""How well an encoder retrieves: within a language, across two, and from the passages of all.

For a benchmark of L languages there are L monolingual pools, L * (L - 1) ordered pairs of question and passage
language, and one pool of everything, asked in each of the L languages. All of it comes from one pass over the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import pyarrow as pa

from hbt_ray import metrics
from hbt_ray.config import EvaluateConfig
from hbt_ray.errors import CorpusError
from hbt_ray.index import top_k
from hbt_ray.records import Benchmark

SETTINGS = ("mono", "cross", "multi")
# Measures told for each language and each pair, too; the per-query table has what is needed for the others.
_DETAILED = ("map", "rank_distance")
_SAMPLED_QUERIES = 40  # of each language, for the picture of the vectors


class Embedder(Protocol):
    """What turns texts into unit vectors, float32 (N, D)."""

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Run:
    """The first K passages of the pool of all languages for each of Q queries."""

    query_ids: tuple[str, ...]
    passage_ids: tuple[str, ...]  # of all P passages, sorted
    columns: np.ndarray  # (Q, K) int64, places in `passage_ids`
    scores: np.ndarray  # (Q, K) float32


@dataclass(frozen=True, slots=True)
class Sample:
    """Some questions of each language and a passage that answers them, for a picture of the vectors."""

    vectors: np.ndarray  # (S, D) float32
    languages: tuple[str, ...]  # (S,)
    sides: tuple[str, ...]  # (S,) "question" or "passage"


@dataclass(frozen=True, slots=True)
class EvalReport:
    """What a benchmark says of an encoder."""

    benchmark: str
    fingerprint: str  # of the benchmark's texts, ids and judgements
    languages: tuple[str, ...]
    metrics: dict[str, float]  # "xquad-r/mono/map", see metrics.MEASURES
    counts: dict[str, int]  # what was measured on
    per_query: pa.Table  # a row for each query in each pool; see `_table` for the columns
    matrix: np.ndarray  # (L, L) mAP by question and passage language, NaN where no query has a judgement
    run: Run
    judgements: dict[str, dict[str, int]]
    sample: Sample
    embed_seconds: float
    rank_seconds: float


@dataclass(frozen=True, slots=True)
class _Cell:
    """The queries of one language measured in one pool."""

    setting: str
    language: str
    passage_language: str | None  # None: all
    rows: np.ndarray  # (N,) places of the queries in the benchmark
    ranks: np.ndarray  # (N, R)
    columns: dict[str, np.ndarray]  # column of the per-query table -> (N,)


def evaluate(embed: Embedder, benchmark: Benchmark, settings: EvaluateConfig) -> EvalReport:
    """Measures an encoder on a benchmark.

    A cell of question and passage language counts the queries that have a judgement there. The pool of all languages
    counts every query, and one without any judgement counts 0; `counts` says how many those are. Averages are macro:
    over queries, then over languages (mono, multi) or ordered pairs (cross). Rank distance is the mean over a
    language's queries with at least two relevant passages, then over languages.

    A benchmark of one language has no cross metrics.

    Raises:
        CorpusError: the benchmark is not in order.
        UserError: the vectors hold NaN, or their widths differ.
    """
    check_benchmark(benchmark)
    started = time.perf_counter()
    query_vectors = _embed(embed.queries, [query.text for query in benchmark.queries])  # (Q, D)
    passage_vectors = _embed(embed.passages, [passage.text for passage in benchmark.passages])  # (P, D)
    embedded = time.perf_counter()
    relevant, grades = _relevant(benchmark)  # (Q, R), (Q, R)
    pools = _pools(benchmark)
    ranks = metrics.ranks_of_relevant(query_vectors, passage_vectors, relevant, [*pools.values(), slice(None)])
    cells = list(_cells(benchmark, list(pools), ranks, grades))
    scores, columns = top_k(query_vectors, passage_vectors, settings.run_depth)
    ranked = time.perf_counter()
    languages = tuple(benchmark.languages)
    return EvalReport(
        benchmark=benchmark.name,
        fingerprint=benchmark.fingerprint(),
        languages=languages,
        metrics=_metrics(benchmark.name, cells),
        counts=_counts(benchmark),
        per_query=_table(benchmark, cells),
        matrix=_matrix(languages, cells),
        run=Run(
            tuple(query.query_id for query in benchmark.queries),
            tuple(passage.passage_id for passage in benchmark.passages),
            columns,
            scores,
        ),
        judgements=benchmark.judgements,
        sample=_sample(benchmark, relevant, query_vectors, passage_vectors),
        embed_seconds=embedded - started,
        rank_seconds=ranked - embedded,
    )


def check_benchmark(benchmark: Benchmark) -> None:
    """Raises CorpusError when ids repeat, are out of order or hold blanks, or a judgement names what is not there."""
    name = benchmark.name
    query_ids = [query.query_id for query in benchmark.queries]
    passage_ids = [passage.passage_id for passage in benchmark.passages]
    if not query_ids or not passage_ids:
        raise CorpusError(f"the benchmark {name!r} has {len(query_ids)} queries and {len(passage_ids)} passages")
    for kind, ids in (("query", query_ids), ("passage", passage_ids)):
        known = set(ids)
        if len(known) < len(ids):
            repeated = next(one for one in ids if ids.count(one) > 1)
            raise CorpusError(f"the benchmark {name!r} has the {kind} id {repeated!r} twice; make ids unique")
        blank = next((one for one in ids if one.split() != [one]), None)
        if blank is not None:
            raise CorpusError(f"the benchmark {name!r} has the {kind} id {blank!r}; ids need to be without blanks")
    if passage_ids != sorted(passage_ids):
        raise CorpusError(f"the passages of the benchmark {name!r} are not sorted by id; sort them, for ties go by id")
    strange = set(benchmark.judgements) - set(query_ids)
    strange = strange or set().union(*benchmark.judgements.values()) - set(passage_ids)
    if strange:
        raise CorpusError(f"the benchmark {name!r} has a judgement for {min(strange)!r}, which is not in it")


def _embed(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """(N, D) vectors; equal texts are embedded once, so that they tie whatever stands beside them in a batch."""
    number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    vectors = np.asarray(embed(list(number_of)), np.float32)
    return vectors if len(number_of) == len(texts) else vectors[[number_of[text] for text in texts]]


def _relevant(benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the relevant passages, -1 where a query has fewer, and their grades: (Q, R), (Q, R)."""
    column_of = {passage.passage_id: column for column, passage in enumerate(benchmark.passages)}
    judged = [
        sorted((column_of[passage_id], grade) for passage_id, grade in judgements.items() if grade > 0)
        for judgements in (benchmark.judgements.get(query.query_id, {}) for query in benchmark.queries)
    ]
    shape = (len(judged), max(map(len, judged)))
    relevant, grades = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    for row, pairs in enumerate(judged):
        if pairs:
            relevant[row, : len(pairs)], grades[row, : len(pairs)] = zip(*pairs, strict=True)
    return relevant, grades


def _pools(benchmark: Benchmark) -> dict[str, metrics.Pool]:
    """The passages of each language, as a slice where they stand side by side."""
    runs = [(key, len(list(group))) for key, group in groupby(passage.language for passage in benchmark.passages)]
    ends = np.cumsum([length for _, length in runs])
    spans: dict[str, list[slice]] = {}
    for (language, length), end in zip(runs, ends.tolist(), strict=True):
        spans.setdefault(language, []).append(slice(end - length, end))
    return {
        language: spans[language][0] if len(spans[language]) == 1 else np.r_[tuple(spans[language])]
        for language in sorted(spans)
    }


def _cells(
    benchmark: Benchmark, passage_languages: Sequence[str], ranks: np.ndarray, grades: np.ndarray
) -> Iterator[_Cell]:
    """Every query language in every pool; ranks are (passage languages + 1, Q, R), all passages last."""
    language_of = np.array([query.language for query in benchmark.queries])
    for language in sorted(set(language_of.tolist())):
        asked = np.flatnonzero(language_of == language)
        for number, passage_language in enumerate(passage_languages):
            rows = asked[(ranks[number, asked] > 0).any(axis=1)]
            if len(rows):
                setting = "mono" if passage_language == language else "cross"
                columns = _measure(ranks[number, rows], grades[rows])
                yield _Cell(setting, language, passage_language, rows, ranks[number, rows], columns)
        columns = _measure(ranks[-1, asked], grades[asked])
        columns["rank_distance"] = metrics.rank_distance(ranks[-1, asked])
        yield _Cell("multi", language, None, asked, ranks[-1, asked], columns)


def _measure(ranks: np.ndarray, grades: np.ndarray) -> dict[str, np.ndarray]:
    """Each column of the per-query table from (N, R) ranks and grades: (N,)."""
    return {
        "ap": metrics.average_precision(ranks),
        "ndcg@10": metrics.ndcg(ranks, 10, grades),
        "recall@1": metrics.recall(ranks, 1),
        "recall@10": metrics.recall(ranks, 10),
        "recall@100": metrics.recall(ranks, 100),
        "rr": metrics.reciprocal_rank(ranks),
    }


def _metrics(benchmark: str, cells: Sequence[_Cell]) -> dict[str, float]:
    """Averages of every measure, whole ones before those of a language or pair."""
    whole: dict[str, float] = {}
    detailed: dict[str, float] = {}
    for setting in SETTINGS:
        for measure in metrics.MEASURES.values():
            means = {
                "-".join(filter(None, (cell.language, cell.passage_language if setting == "cross" else None))): float(
                    np.nanmean(cell.columns[measure.column])
                )
                for cell in cells
                if cell.setting == setting and not np.isnan(cell.columns.get(measure.column, np.nan)).all()
            }
            if means:
                name = f"{benchmark}/{setting}/{measure.name}"
                whole[name] = float(np.mean(list(means.values())))
                if measure.name in _DETAILED:
                    detailed |= {f"{name}/{part}": mean for part, mean in means.items()}
    return whole | detailed


def _table(benchmark: Benchmark, cells: Sequence[_Cell]) -> pa.Table:
    """The per-query table.

    Columns: query_id, language, setting, passage_language (null for multi), the measures, relevant (their number),
    ranks (ascending), rank_distance (null but for multi with two relevant passages).
    """
    sizes = [len(cell.rows) for cell in cells]
    rows = np.concatenate([cell.rows for cell in cells])
    ranks = np.concatenate([cell.ranks for cell in cells])  # (rows, R)
    relevant = (ranks > 0).sum(axis=1)
    ordered = np.sort(ranks, axis=1)
    distance = [cell.columns.get("rank_distance", np.full(len(cell.rows), np.nan)) for cell in cells]
    query_ids = np.array([query.query_id for query in benchmark.queries], object)
    languages = np.repeat(np.array([cell.language for cell in cells], object), sizes)
    passage_languages = np.repeat(np.array([cell.passage_language for cell in cells], object), sizes)
    measured = {name: np.concatenate([cell.columns[name] for cell in cells]) for name in _measure(ranks[:0], ranks[:0])}
    return pa.table(
        {
            "query_id": pa.array(query_ids[rows], pa.string()),
            "language": pa.array(languages, pa.string()),
            "setting": pa.array(np.repeat(np.array([cell.setting for cell in cells], object), sizes), pa.string()),
            "passage_language": pa.array(passage_languages, pa.string()),
            **measured,
            "relevant": relevant.astype(np.int32),
            "ranks": pa.ListArray.from_arrays(
                np.concatenate([[0], np.cumsum(relevant)]).astype(np.int32), ordered[ordered > 0]
            ),
            "rank_distance": pa.array(np.concatenate(distance), pa.float64(), from_pandas=True),
        }
    )


def _matrix(languages: Sequence[str], cells: Sequence[_Cell]) -> np.ndarray:
    place = {language: number for number, language in enumerate(languages)}
    matrix = np.full((len(languages), len(languages)), np.nan)
    for cell in cells:
        if cell.passage_language is not None:
            matrix[place[cell.language], place[cell.passage_language]] = cell.columns["ap"].mean()
    return matrix


def _counts(benchmark: Benchmark) -> dict[str, int]:
    judged = [
        sum(grade > 0 for grade in benchmark.judgements.get(query.query_id, {}).values()) for query in benchmark.queries
    ]
    counts = {
        "languages": len(benchmark.languages),
        "queries": len(benchmark.queries),
        "passages": len(benchmark.passages),
        "relevant": sum(judged),
        "queries_without_relevant": judged.count(0),
    }
    for language in benchmark.languages:
        counts[f"queries/{language}"] = sum(query.language == language for query in benchmark.queries)
        counts[f"passages/{language}"] = sum(passage.language == language for passage in benchmark.passages)
    return counts


def _sample(
    benchmark: Benchmark, relevant: np.ndarray, query_vectors: np.ndarray, passage_vectors: np.ndarray
) -> Sample:
    """Evenly spaced questions of each language, sorted by id so that translations are taken together, and for each
    a passage that answers it, in its own language if there is one."""
    queries: list[int] = []
    passages: set[int] = set()
    languages = np.array([passage.language for passage in benchmark.passages])
    by_id = sorted(range(len(benchmark.queries)), key=lambda row: benchmark.queries[row].query_id)
    for language in benchmark.languages:
        asked = [row for row in by_id if benchmark.queries[row].language == language]
        for place in np.unique(np.linspace(0, len(asked) - 1, min(_SAMPLED_QUERIES, len(asked))).astype(int)):
            row = asked[place]
            queries.append(row)
            answers = relevant[row][relevant[row] >= 0].tolist()
            passages.update(sorted(answers, key=lambda answer: languages[answer] != language)[:1])
    chosen = sorted(passages)
    return Sample(
        np.concatenate([query_vectors[queries], passage_vectors[chosen]]),
        (*(benchmark.queries[row].language for row in queries), *languages[chosen].tolist()),
        ("question",) * len(queries) + ("passage",) * len(chosen),
    )
