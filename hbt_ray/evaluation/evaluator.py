"""How well an encoder retrieves: within a language, across two, and from the passages of all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, RejectedRow
from hbt_ray.errors import CorpusError
from hbt_ray.evaluation import language_bias
from hbt_ray.evaluation.alignment import alignment_metrics
from hbt_ray.evaluation.metrics import METRICS
from hbt_ray.evaluation.retrieval_metrics import (
    RelevantPassages,
    compute_retrieval_metrics,
    excluded_columns,
    language_spans,
)
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from hbt_ray.retrieval.passage_windows import window_passages

CONSISTENCY_DEPTH = 100  # passages of a ranking that are compared
_RECALL_QUERIES = 200  # by which the recall of an approximate index is told
_SAMPLED_QUERIES = 40  # of each language, for the picture of the vectors


class Embedder(Protocol):
    """What turns texts into unit vectors, float32 (N, D)."""

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class RankedList:
    """The first K passages of the pool of all languages for each of Q queries."""

    query_ids: tuple[str, ...]
    passage_ids: tuple[str, ...]  # of all P passages, sorted
    columns: np.ndarray  # (Q, K) int64, places in `passage_ids`
    scores: np.ndarray  # (Q, K) float32


@dataclass(frozen=True, slots=True)
class EmbeddingSample:
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
    per_query: pa.Table  # a row for each query in each pool; see `compute_retrieval_metrics.py` for the columns
    matrix: np.ndarray  # (L, L) mAP by question and passage language, NaN where no query has a judgement
    run: RankedList
    judgements: dict[str, dict[str, int]]
    rejects: tuple[RejectedRow, ...]  # what the benchmark's files hold that could not be used
    sample: EmbeddingSample
    embed_seconds: float
    rank_seconds: float
    split: str = ""  # of the benchmark
    depth: int | None = None  # how many passages of each query were looked at; None: all
    index_recall: dict[str, float] = field(default_factory=dict)  # of an approximate index: "all", and by language
    dimensions: int | None = None  # to which vectors were cut; None: whole

    def metric(self, setting: str, measure: str, part: str = "") -> str:
        """A metric's name here: what an approximate index listed no deeper than `depth` is named so."""
        name = f"{self.benchmark}/{setting}/{METRICS[measure].name_at(self.depth)}"
        return f"{name}/{part}" if part else name


def evaluate_benchmark(
    embed: Embedder, benchmark: Benchmark, settings: EvaluateConfig, pool: PassageIndex | None = None
) -> EvalReport:
    """Measures an encoder on a benchmark.

    Args:
        pool: the benchmark's passages, where they were embedded elsewhere; None: embed them here.

    What counts where is said at `compute_retrieval_metrics`; `counts` says how many queries have no relevant passage,
    and how many such passages the pool lacks. A benchmark of one language has no cross metrics.

    Raises:
        CorpusError: the benchmark is not in order.
        UserError: the vectors hold NaN, or their widths differ.
    """
    check_benchmark(benchmark)
    started = time.perf_counter()
    query_vectors = _embed_queries(embed, [query.text for query in benchmark.queries])  # (Q, D)
    if pool is None:
        pool = embedded_pool(embed, benchmark, settings.window_chars)
    embedded = time.perf_counter()
    measured = compute_retrieval_metrics(benchmark, query_vectors, pool)
    scores, columns = _first_passages(benchmark, pool, query_vectors, settings.run_depth)
    parallel = _parallel_metrics(benchmark, columns, measured.judged, query_vectors, pool)
    ranked = time.perf_counter()
    return EvalReport(
        benchmark=benchmark.name,
        fingerprint=benchmark.fingerprint(),
        languages=tuple(benchmark.languages),
        metrics=measured.metrics | parallel,
        counts=_counts(benchmark),
        per_query=measured.per_query,
        matrix=measured.matrix,
        run=RankedList(
            tuple(query.query_id for query in benchmark.queries),
            tuple(passage.passage_id for passage in benchmark.passages),
            columns,
            scores,
        ),
        judgements=benchmark.judgements,
        rejects=tuple(benchmark.rejects),
        sample=_sample(benchmark, measured.judged.columns, query_vectors, pool),
        embed_seconds=embedded - started,
        rank_seconds=ranked - embedded,
        split=benchmark.split,
        depth=pool.depth,
        index_recall=_index_recall(benchmark, pool, query_vectors),
        dimensions=settings.dimensions,
    )


def metrics_of(embed: Embedder, benchmark: Benchmark) -> dict[str, float]:
    """Return the metrics of `evaluate_benchmark` without figures and samples, for repeated evaluation.

    Raises:
        UserError: the vectors hold NaN.
    """
    query_vectors = _embed_queries(embed, [query.text for query in benchmark.queries])
    pool = embedded_pool(embed, benchmark)
    return compute_retrieval_metrics(benchmark, query_vectors, pool).metrics


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
    strange = strange or set().union(*benchmark.judgements.values()) - set(passage_ids) - benchmark.absent.keys()
    if strange:
        raise CorpusError(f"the benchmark {name!r} has a judgement for {min(strange)!r}, which is not in it")


def _first_passages(
    benchmark: Benchmark, pool: PassageIndex, query_vectors: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run `PassageIndex.top_k` without a query's excluded passage; missing entries have score -inf and column -1."""
    if not benchmark.excluded:
        return pool.top_k(query_vectors, k)
    scores, columns = pool.top_k(query_vectors, k + 1)
    kept = columns != excluded_columns(benchmark)[:, None]
    order = np.argsort(~kept, axis=1, kind="stable")
    scores = np.take_along_axis(np.where(kept, scores, -np.inf), order, axis=1)
    columns = np.take_along_axis(np.where(kept, columns, -1), order, axis=1)
    return scores[:, :k], columns[:, :k]


def _index_recall(benchmark: Benchmark, pool: PassageIndex, query_vectors: np.ndarray) -> dict[str, float]:
    """What an approximate index finds of the exact first 10, over some queries: among all and in each language."""
    if pool.depth is None:
        return {}
    sampled = query_vectors[:: -(-len(query_vectors) // _RECALL_QUERIES)]
    spans = {language: span for language, span in language_spans(benchmark).items() if isinstance(span, slice)}
    found = {"all": pool.index_recall(sampled)}
    return found | {
        language: pool.index_recall(sampled, (span.start, span.stop))
        for language, span in spans.items()
        if span.stop > span.start
    }


def embedded_pool(embed: Embedder, benchmark: Benchmark, window_chars: int | None = None) -> PassageIndex:
    """A benchmark's passages, embedded in one process."""
    pieces = window_passages([passage.text for passage in benchmark.passages], window_chars)
    vectors = np.concatenate([np.asarray(embed.passages(chunk), np.float32) for chunk in pieces.chunks()])
    return PassageIndex.of(PassageIndexShard(vectors[pieces.rows], window_starts=pieces.starts))


def _embed_queries(embed: Embedder, texts: Sequence[str]) -> np.ndarray:
    """(Q, D) vectors; equal texts are embedded once, so that they tie whatever stands beside them in a batch."""
    pieces = window_passages(texts, None)
    return np.asarray(embed.queries(pieces.texts), np.float32)[pieces.rows]


def _parallel_metrics(
    benchmark: Benchmark,
    run_columns: np.ndarray,
    judged: RelevantPassages,
    query_vectors: np.ndarray,
    pool: PassageIndex,
) -> dict[str, float]:
    """What parallel questions and passages say: how near they lie, and how alike what they list is."""
    groups = [query.group for query in benchmark.queries]
    if not any(groups):
        return {}
    languages = [query.language for query in benchmark.queries]
    found = {f"alignment/{name}": v for name, v in alignment_metrics(groups, languages, query_vectors).items()}
    of_passage: dict[int, str] = {}
    for group, columns in zip(groups, judged.columns.tolist(), strict=True):
        for column in columns:
            if group and column >= 0:
                of_passage.setdefault(column, group)
    chosen = sorted(of_passage)
    answers = [benchmark.passages[column].language for column in chosen]
    aligned = alignment_metrics(
        [of_passage[column] for column in chosen], answers, pool.vectors_of(np.array(chosen, np.int64))
    )
    found |= {f"passage_alignment/{name}": value for name, value in aligned.items()}
    overlaps = language_bias.consistency(groups, languages, run_columns[:, :CONSISTENCY_DEPTH])
    if overlaps:
        found["multi/consistency"] = float(np.mean(list(overlaps.values())))
        found |= {f"multi/consistency/{one}-{other}": value for (one, other), value in overlaps.items()}
    return {f"{benchmark.name}/{name}": value for name, value in found.items()}


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
        "relevant_passages_absent": len(benchmark.absent),
    }
    for language in benchmark.languages:
        counts[f"queries/{language}"] = sum(query.language == language for query in benchmark.queries)
        counts[f"passages/{language}"] = sum(passage.language == language for passage in benchmark.passages)
    return counts


def _sample(
    benchmark: Benchmark, relevant: np.ndarray, query_vectors: np.ndarray, pool: PassageIndex
) -> EmbeddingSample:
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
    return EmbeddingSample(
        np.concatenate([query_vectors[queries], pool.vectors_of(np.array(chosen, np.int64))]),
        (*(benchmark.queries[row].language for row in queries), *languages[chosen].tolist()),
        ("question",) * len(queries) + ("passage",) * len(chosen),
    )
