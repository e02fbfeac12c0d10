"""How fast a benchmark is measured: one pass here, against sentence-transformers' evaluator, one for each pool."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hbt_ray.measure import measure
from hbt_ray.pool import Pool, Shard
from hbt_ray.records import Benchmark

ALL = None  # the pool of all languages
REPETITIONS = 3  # of ours, of which the median counts; theirs is a sum over many evaluators
DEPTH = 100  # their default depth of mAP


def bench_evaluate(benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> dict[str, Any]:
    """Seconds from vectors to all measures: Mono of every language, Cross of every pair, Multi of every language.

    Theirs takes the first 100 passages of each pool, as it does by default; ours ranks every relevant passage, and
    finds rank distance, the matrix and the per-query table as well. Neither writes a report.

    Args:
        query_vectors: (Q, D) float32 unit vectors, in the order of the benchmark.
        passage_vectors: (P, D) likewise.

    Returns:
        `ours_s`, `theirs_s`, their `ratio`, the number of `evaluations`, and as `apart` how far the two mAPs of any
        of them are from each other, over the passages that theirs looks at.
    """
    lookup: Any = _Lookup(benchmark, query_vectors, passage_vectors)
    vectors = [lookup.queries([query.text for query in benchmark.queries])]
    vectors.append(lookup.passages([passage.text for passage in benchmark.passages]))
    own_s = []
    for _ in range(REPETITIONS):
        began_s = time.perf_counter()
        measured = measure(benchmark, vectors[0], Pool.of(Shard(vectors[1])))
        own_s.append(time.perf_counter() - began_s)
    ours_s = statistics.median(own_s)

    asked = sorted({query.language for query in benchmark.queries})
    answered = sorted({passage.language for passage in benchmark.passages})
    ours = _maps_to_depth(measured.per_query)
    theirs_s, apart = 0.0, []
    for language in asked:
        for pool in (*answered, ALL):
            evaluator = _evaluator(benchmark, language, pool, DEPTH)
            began_s = time.perf_counter()
            found: Any = evaluator.compute_all_metrics(lookup)
            theirs_s += time.perf_counter() - began_s
            apart.append(abs(found["cosine"]["map@k"][DEPTH] - ours[language, pool]))
    return {
        "ours_s": ours_s,
        "theirs_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "evaluations": len(apart),
        "apart": max(apart),
    }


def _maps_to_depth(per_query: pa.Table) -> dict[tuple[str, str | None], float]:
    """mAP of each question language in each pool, as it is when the first DEPTH passages alone are looked at."""
    precisions: dict[tuple[str, str | None], list[float]] = {}
    columns = per_query.select(["language", "passage_language", "ranks", "relevant"]).to_pydict().values()
    for language, pool, ranks, relevant in zip(*columns, strict=True):
        listed = sum(place / rank for place, rank in enumerate(ranks, start=1) if rank <= DEPTH)
        precisions.setdefault((language, pool), []).append(listed / max(relevant, 1))
    return {cell: statistics.fmean(values) for cell, values in precisions.items()}


def _evaluator(benchmark: Benchmark, language: str, pool: str | None, depth: int) -> InformationRetrievalEvaluator:
    passages: Any = {p.passage_id: p.passage_id for p in benchmark.passages if pool is ALL or p.language == pool}
    queries: Any = {q.query_id: q.query_id for q in benchmark.queries if q.language == language}
    relevant = {
        key: {
            passage for passage, grade in benchmark.judgements.get(key, {}).items() if grade > 0 and passage in passages
        }
        for key in queries
    }
    scores = {"cosine": lambda one, other: one @ other.T}  # of unit vectors
    return InformationRetrievalEvaluator(queries, passages, relevant, map_at_k=[depth], score_functions=scores)


class _Lookup:
    """Vectors that were made beforehand, in the place of a model; for theirs, ids stand for texts."""

    def __init__(self, benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> None:
        self._query_vectors = query_vectors
        self._passage_vectors = passage_vectors
        self._query_of = {query.text: row for row, query in enumerate(benchmark.queries)}
        self._passage_of = {passage.text: row for row, passage in enumerate(benchmark.passages)}
        # Equal texts have one vector, here as there.
        self._rows = {query.query_id: self._query_of[query.text] for query in benchmark.queries}
        self._rows |= {passage.passage_id: self._passage_of[passage.text] for passage in benchmark.passages}

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._query_vectors[[self._query_of[text] for text in texts]]

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._passage_vectors[[self._passage_of[text] for text in texts]]

    def encode_query(self, ids: Sequence[str], **_: Any) -> torch.Tensor:
        return torch.from_numpy(self._query_vectors[[self._rows[one] for one in ids]])

    def encode_document(self, ids: Sequence[str], **_: Any) -> torch.Tensor:
        return torch.from_numpy(self._passage_vectors[[self._rows[one] for one in ids]])
