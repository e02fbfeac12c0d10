"""Evaluation of an encoder on a benchmark: within a language, across two, and among the passages of all.

Legend: Q queries, P passages, D width, K passages listed for each query, S sampled texts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, RejectedRow, benchmark_title
from hbt_ray.debiasing.language_means import LanguageMeans, mean_rows_of_windows, means_notes
from hbt_ray.errors import CorpusError
from hbt_ray.evaluation import language_bias
from hbt_ray.evaluation.alignment import alignment_metrics
from hbt_ray.evaluation.constant_vectors import constant_vector_warnings
from hbt_ray.evaluation.judgement_arrays import excluded_indices, language_spans, rows_of_ids
from hbt_ray.evaluation.metrics import METRICS
from hbt_ray.evaluation.question_results import LISTED, QuestionResults, question_results
from hbt_ray.evaluation.retrieval_metrics import RetrievalMetrics, compute_retrieval_metrics, run_file_metrics
from hbt_ray.retrieval.exact_search import TopK
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from hbt_ray.retrieval.passage_windows import window_passages

logger = logging.getLogger(__name__)

CONSISTENCY_DEPTH = 100  # passages of a ranking that are compared
_INDEX_RECALL_QUERIES = 200  # from which the recall of an approximate index is computed
_SAMPLED_QUERIES = 40  # of each language, for the projection of the vectors


class Embedder(Protocol):
    """Turns texts into vectors whose inner products are scores, float32 (N, D)."""

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class RankedList:
    """The first K passages of the pool of all languages for each of Q queries."""

    query_ids: tuple[str, ...]
    passage_ids: Sequence[str]  # of all P passages, sorted
    passage_indices: np.ndarray  # (Q, K) int64, indices in `passage_ids`; -1 for none
    scores: np.ndarray  # (Q, K) float32


@dataclass(frozen=True, slots=True)
class EmbeddingSample:
    """Vectors of some queries of each language, and of a relevant passage of each, for a projection."""

    vectors: np.ndarray  # (S, D) float32
    languages: tuple[str, ...]  # (S,)
    sides: tuple[str, ...]  # (S,) "question" or "passage"


@dataclass(frozen=True, slots=True)
class EvalReport:
    """The result of evaluating an encoder on a benchmark."""

    benchmark: str
    fingerprint: str  # of the benchmark's texts, ids and judgements
    languages: tuple[str, ...]
    metrics: dict[str, float]  # full name, such as "xquad-r/mono/map" -> value
    counts: dict[str, int]  # of languages, queries, passages and judgements
    per_query: pa.Table  # a row for each query in each pool; see evaluation/README.md for the columns
    matrix: np.ndarray  # (L, L) mAP by query and passage language, NaN where no query has a judgement
    run: RankedList
    results: QuestionResults
    run_file_metrics: dict[str, float]  # what trec_eval computes from `run`, by metric
    judgements: dict[str, dict[str, int]]
    rejects: tuple[RejectedRow, ...]  # entries of the benchmark's files that could not be used
    sample: EmbeddingSample
    embed_seconds: float
    rank_seconds: float
    split: str = ""  # of the benchmark
    date: str = ""  # of the evaluation, UTC: 2026-01-31
    depth: int | None = None  # passages of each query that an approximate index lists; None: all
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # 95%, by the full name of a metric
    index_recall: dict[str, float] = field(default_factory=dict)  # of an approximate index: "all", and by language
    dimensions: int | None = None  # to which vectors are truncated; None: not truncated
    notes: tuple[str, ...] = ()  # sentences on how the vectors were made
    warnings: tuple[str, ...] = ()  # sentences on what makes the metrics meaningless
    decontaminated: bool | None = None  # whether the model's training data were, against this benchmark; None: unknown

    @property
    def title(self) -> str:
        """The benchmark with its split, for people."""
        return benchmark_title(self.benchmark, self.split)

    def metric(self, setting: str, name: str, part: str = "") -> str:
        """Return a metric's full name in this report, with the depth of an approximate index.

        Args:
            setting: "mono", "cross", "multi" or "gap".
            name: a key of METRICS.
            part: a language, pair of languages, resource level or the worst tenth; "": the average.
        """
        full_name = f"{self.benchmark}/{setting}/{METRICS[name].name_at(self.depth)}"
        return f"{full_name}/{part}" if part else full_name


def evaluate_benchmark(
    embedder: Embedder,
    benchmark: Benchmark,
    settings: EvaluateConfig,
    index: PassageIndex | None = None,
    means: LanguageMeans | None = None,
    fingerprint: str | None = None,
) -> EvalReport:
    """Evaluate an encoder on a benchmark.

    1. Embed the queries, and the passages where no index is given.
    2. Compute every metric of every query, and their averages (`compute_retrieval_metrics`).
    3. List the first passages of each query among the passages of all languages.
    4. Compute alignment and ranking consistency of parallel texts.
    5. Collect counts, a sample of vectors and the recall of an approximate index.

    A benchmark of one language has no cross metrics. `counts` has the number of queries without a relevant passage, and
    of relevant passages that the pool lacks.

    Args:
        embedder: the encoder.
        benchmark: the queries, passages and judgements.
        settings: window size, depth of the listed ranking, dimensions.
        index: the benchmark's passages, where they are embedded already; None: embed them here.
        means: that are subtracted from the vectors, by the language of the text; None: nothing is.
        fingerprint: of the benchmark, where it is known already; None: compute it from all texts here.

    Raises:
        CorpusError: the benchmark's ids or judgements are not valid.
        UserError: the vectors hold NaN, or their widths differ.
    """
    check_benchmark(benchmark)
    started = time.perf_counter()
    # 1. Vectors
    query_vectors = embed_queries(embedder, benchmark, means)  # (Q, D)
    if index is None:
        index = index_passages(embedder, benchmark, settings.window_chars, means)
    embedded = time.perf_counter()
    # 2. Metrics
    result = compute_retrieval_metrics(benchmark, query_vectors, index)
    # 3. The ranking
    depth = settings.run_depth
    listed = max(depth, LISTED, CONSISTENCY_DEPTH)
    scores, passage_indices = _first_passages(benchmark, index, query_vectors, listed)
    run = RankedList(
        query_ids=tuple(query.query_id for query in benchmark.queries),
        passage_ids=benchmark.columns.ids,
        passage_indices=passage_indices[:, :depth],
        scores=scores[:, :depth],
    )
    # 4. Parallel texts
    parallel = _parallel_text_metrics(benchmark, passage_indices, result, query_vectors, index)
    ranked = time.perf_counter()
    # 5. The rest of the report
    notes, unknown = ((), ()) if means is None else means_notes(benchmark, means)
    return EvalReport(
        benchmark=benchmark.name,
        fingerprint=fingerprint or benchmark.fingerprint(),
        languages=tuple(benchmark.languages),
        metrics=result.metrics | parallel,
        counts=_counts(benchmark),
        per_query=result.per_query,
        matrix=result.matrix,
        run=run,
        results=question_results(benchmark, result, passage_indices, scores),
        run_file_metrics=run_file_metrics(benchmark, result, depth),
        judgements=benchmark.judgements,
        rejects=tuple(benchmark.rejects),
        sample=_sample(benchmark, result.relevant.passage_indices, query_vectors, index),
        embed_seconds=embedded - started,
        rank_seconds=ranked - embedded,
        split=benchmark.split,
        date=datetime.now(UTC).date().isoformat(),
        depth=index.depth,
        intervals=result.intervals,
        index_recall=_index_recall(benchmark, index, query_vectors),
        dimensions=settings.dimensions,
        notes=notes,
        warnings=(*unknown, *constant_vector_warnings(benchmark, query_vectors, index)),
    )


def retrieval_metrics_of(embedder: Embedder, benchmark: Benchmark, window_chars: int | None = None) -> dict[str, float]:
    """Compute the metrics of steps 1 and 2 of `evaluate_benchmark`, for repeated evaluation during a search.

    A model that maps all texts to one vector is warned of.

    Raises:
        UserError: the vectors hold NaN.
    """
    query_vectors, index = embed_queries(embedder, benchmark), index_passages(embedder, benchmark, window_chars)
    for warning in constant_vector_warnings(benchmark, query_vectors, index):
        logger.warning("%s: %s", benchmark.name, warning)
    return compute_retrieval_metrics(benchmark, query_vectors, index).metrics


def embed_queries(embedder: Embedder, benchmark: Benchmark, means: LanguageMeans | None = None) -> np.ndarray:
    """Embed a benchmark's queries: (Q, D) float32. Equal texts are embedded once, so they tie exactly."""
    windows = window_passages([query.text for query in benchmark.queries], None)
    vectors = np.asarray(embedder.queries(windows.texts), np.float32)[windows.rows]
    if means is None:
        return vectors
    return means.subtract(vectors, means.rows_of([query.text_language for query in benchmark.queries]), "queries")


def index_passages(
    embedder: Embedder, benchmark: Benchmark, window_chars: int | None = None, means: LanguageMeans | None = None
) -> PassageIndex:
    """Embed a benchmark's passages in this process, and index them exactly."""
    windows = window_passages(benchmark.columns.texts, window_chars)
    embedded = np.concatenate([np.asarray(embedder.passages(chunk), np.float32) for chunk in windows.chunks()])
    vectors = embedded[windows.rows]
    if means is not None:
        vectors = means.subtract(vectors, mean_rows_of_windows(means, benchmark, windows), "passages")
    return PassageIndex.of(PassageIndexShard(vectors, window_starts=windows.starts))


def check_benchmark(benchmark: Benchmark) -> None:
    """Raise CorpusError if ids repeat, are not sorted or hold blanks, or if a judgement has an unknown id."""
    name = benchmark.name
    query_ids = [query.query_id for query in benchmark.queries]
    passage_ids = benchmark.columns.ids
    if not query_ids or not passage_ids:
        raise CorpusError(f"the benchmark {name!r} has {len(query_ids)} queries and {len(passage_ids)} passages")
    is_sorted = all(one < other for one, other in pairwise(passage_ids))
    for side, ids in (("query", query_ids), ("passage", passage_ids)):
        if not (side == "passage" and is_sorted) and len(set(ids)) < len(ids):
            repeated = next(one for one in ids if ids.count(one) > 1)
            raise CorpusError(f"the benchmark {name!r} has the {side} id {repeated!r} twice; make ids unique")
        blank = next((one for one in ids if one.split() != [one]), None)
        if blank is not None:
            raise CorpusError(f"the benchmark {name!r} has the {side} id {blank!r}; ids need to be without blanks")
    if not is_sorted:
        raise CorpusError(f"the passages of the benchmark {name!r} are not sorted by id; sort them, for ties go by id")
    unknown = set(benchmark.judgements) - set(query_ids)
    judged = {key for of_query in benchmark.judgements.values() for key in of_query} - benchmark.absent.keys()
    unknown = unknown or {key for key, row in rows_of_ids(benchmark, judged).items() if row < 0}
    if unknown:
        raise CorpusError(f"the benchmark {name!r} has a judgement for {min(unknown)!r}, which is not in it")


def _first_passages(benchmark: Benchmark, index: PassageIndex, query_vectors: np.ndarray, k: int) -> TopK:
    """Run `PassageIndex.top_k` without each query's excluded passage; missing entries have score -inf and index -1."""
    if not benchmark.excluded:
        return index.top_k(query_vectors, k)
    scores, indices = index.top_k(query_vectors, k + 1)
    keep = indices != excluded_indices(benchmark)[:, None]
    order = np.argsort(~keep, axis=1, kind="stable")
    scores = np.take_along_axis(np.where(keep, scores, -np.inf), order, axis=1)
    indices = np.take_along_axis(np.where(keep, indices, -1), order, axis=1)
    return scores[:, :k], indices[:, :k]


def _index_recall(benchmark: Benchmark, index: PassageIndex, query_vectors: np.ndarray) -> dict[str, float]:
    """Compute recall@10 of an approximate index against the exact one, over some queries: "all", and by language."""
    if index.depth is None:
        return {}
    sampled = query_vectors[:: -(-len(query_vectors) // _INDEX_RECALL_QUERIES)]
    spans = {language: span for language, span in language_spans(benchmark).items() if isinstance(span, slice)}
    recall = {"all": index.index_recall(sampled)}
    return recall | {
        language: index.index_recall(sampled, (span.start, span.stop))
        for language, span in spans.items()
        if span.stop > span.start
    }


def _parallel_text_metrics(
    benchmark: Benchmark,
    listed: np.ndarray,
    result: RetrievalMetrics,
    query_vectors: np.ndarray,
    index: PassageIndex,
) -> dict[str, float]:
    """Compute alignment of parallel texts, and consistency of the rankings of a query's translations.

    1. Align the queries that are translations of each other.
    2. Align the passages that are relevant to translations of one query.
    3. Compare the rankings of translations by rank-biased overlap.
    """
    groups = [query.group for query in benchmark.queries]
    if not any(groups):
        return {}
    languages = [query.language for query in benchmark.queries]
    # 1. Queries
    metrics = {f"alignment/{name}": v for name, v in alignment_metrics(groups, languages, query_vectors).items()}
    # 2. Passages
    group_of_passage: dict[int, str] = {}
    for group, relevant in zip(groups, result.relevant.passage_indices.tolist(), strict=True):
        for passage in relevant:
            if group and passage >= 0:
                group_of_passage.setdefault(passage, group)
    passages = sorted(group_of_passage)
    passage_languages = benchmark.columns.languages
    aligned = alignment_metrics(
        [group_of_passage[passage] for passage in passages],
        [passage_languages[passage] for passage in passages],
        index.vectors_of(np.array(passages, np.int64)),
    )
    metrics |= {f"passage_alignment/{name}": value for name, value in aligned.items()}
    # 3. Rankings
    overlaps = language_bias.consistency(groups, languages, listed[:, :CONSISTENCY_DEPTH])
    if overlaps:
        metrics["multi/consistency"] = float(np.mean(list(overlaps.values())))
        metrics |= {f"multi/consistency/{one}-{other}": value for (one, other), value in overlaps.items()}
    return {f"{benchmark.name}/{name}": value for name, value in metrics.items()}


def _counts(benchmark: Benchmark) -> dict[str, int]:
    relevant = [
        sum(grade > 0 for grade in benchmark.judgements.get(query.query_id, {}).values()) for query in benchmark.queries
    ]
    of_language = Counter(benchmark.columns.languages)
    counts = {
        "languages": len(benchmark.languages),
        "queries": len(benchmark.queries),
        "passages": len(benchmark.passages),
        "relevant": sum(relevant),
        "queries_without_relevant": relevant.count(0),
        "relevant_passages_absent": len(benchmark.absent),
    }
    for language in benchmark.languages:
        counts[f"queries/{language}"] = sum(query.language == language for query in benchmark.queries)
        counts[f"passages/{language}"] = of_language[language]
    return counts


def _sample(
    benchmark: Benchmark, relevant: np.ndarray, query_vectors: np.ndarray, index: PassageIndex
) -> EmbeddingSample:
    """Sample queries of each language and one relevant passage of each, in the query's language where there is one.

    Queries are evenly spaced in the order of their ids, so that translations of a query are sampled together.
    """
    query_rows: list[int] = []
    passages: set[int] = set()
    passage_languages = benchmark.columns.languages
    by_id = sorted(range(len(benchmark.queries)), key=lambda row: benchmark.queries[row].query_id)
    for language in benchmark.languages:
        rows = [row for row in by_id if benchmark.queries[row].language == language]
        for number in np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLED_QUERIES, len(rows))).astype(int)):
            row = rows[number]
            query_rows.append(row)
            candidates = relevant[row][relevant[row] >= 0].tolist()
            passages.update(sorted(candidates, key=lambda passage: passage_languages[passage] != language)[:1])
    sampled = sorted(passages)
    return EmbeddingSample(
        np.concatenate([query_vectors[query_rows], index.vectors_of(np.array(sampled, np.int64))]),
        (
            *(benchmark.queries[row].language for row in query_rows),
            *(passage_languages[passage] for passage in sampled),
        ),
        ("question",) * len(query_rows) + ("passage",) * len(sampled),
    )
