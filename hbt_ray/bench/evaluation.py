"""Speed of computing retrieval metrics: one pass, against one sentence-transformers evaluator for each pool."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating, scratch_folder
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.retrieval_metrics import compute_retrieval_metrics
from hbt_ray.retrieval.passage_index import PassageIndex
from hbt_ray.retrieval.passage_shard import PassageIndexShard
from hbt_ray.utils.limits import load_json

ALL_LANGUAGES = None  # as a passage language: the pool of all languages
MAX_ROUNDS = 2  # the baseline takes long, and differs little from round to round
REPEATS = 3  # of this project's pass in a round
DEPTH = 100  # the baseline's default depth of mAP
WIDTH = 384  # of random vectors

MapByPool = dict[tuple[str, str | None], float]  # (query language, passage language) -> mAP
Evaluators = dict[tuple[str, str | None], InformationRetrievalEvaluator]


def bench_retrieval_metrics(settings: BenchSettings) -> BenchResult:
    """Compare the seconds from vectors to all metrics of XQuAD-R: mono and cross of every language pair, and multi.

    The baseline looks at the first 100 passages of each pool, as it does by default; this project ranks every relevant
    passage, and computes rank distance, the matrix and the per-query table as well. Neither writes a report. Vectors
    are random, which takes longest because most passages are close to each other, unless a model and XQuAD-R are given.
    """
    if settings.quick:
        benchmark = make_parallel_benchmark(3, 40, 60)
    elif settings.xquad is None:
        benchmark = make_parallel_benchmark(11, 1_190, 13_014)
    else:
        benchmark = load_benchmark("xquad-r", settings.xquad)
    queries, passages = _vectors(benchmark, settings)
    return compare_with_evaluators(benchmark, queries, passages, settings.out / "measures", rounds=settings.rounds)


def compare_with_evaluators(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, scratch: Path, *, rounds: int
) -> BenchResult:
    """Compare all metrics of a benchmark in one pass with one sentence-transformers evaluator for each pool.

    Args:
        benchmark: the retrieval set.
        query_vectors: (Q, D) float32 unit vectors, in the order of the benchmark's queries.
        passage_vectors: (P, D) float32 unit vectors, in the order of the benchmark's passages.
        scratch: see `scratch_folder`.
        rounds: at most MAX_ROUNDS of them are run.

    Returns:
        The result. Details: `evaluations`, the number of evaluators; `map_apart`, the largest difference between the
        two mAPs of a pool, both over the passages that the baseline looks at.
    """
    vectors = (benchmark, query_vectors, passage_vectors)
    with scratch_folder(scratch) as folder:
        result = compare_alternating(
            Contestant(make_metrics_round, (*vectors, folder / "ours.json"), repeats=REPEATS),
            Contestant(make_evaluators_round, (*vectors, folder / "theirs.json")),
            unit="s",
            rounds=min(rounds, MAX_ROUNDS),
            warm_up=0,
        )
        ours, theirs = (_read_maps(folder / name) for name in ("ours.json", "theirs.json"))
    details = {
        "peer_is": "sentence-transformers' InformationRetrievalEvaluator, once for each pool",
        "evaluations": len(theirs),
        "map_apart": max(abs(ours[pool] - theirs[pool]) for pool in theirs),
    }
    return replace(result, details=details | dict(result.details))


def make_metrics_round(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, out: Path
) -> RoundFunction:
    """Return a function that computes all metrics; run it once and write the mAPs to `out` first."""
    lookup = _VectorLookup(benchmark, query_vectors, passage_vectors)
    _write_maps(map_by_pool(benchmark, query_vectors, passage_vectors), out)
    queries = lookup.queries([query.text for query in benchmark.queries])
    passages = lookup.passages([passage.text for passage in benchmark.passages])

    def run_round() -> float:
        compute_retrieval_metrics(benchmark, queries, PassageIndex.of(PassageIndexShard(passages)))
        return 1

    return run_round


def make_evaluators_round(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, out: Path
) -> RoundFunction:
    """Return a function that runs every evaluator and writes the mAPs to `out`; run one evaluator first."""
    lookup: Any = _VectorLookup(benchmark, query_vectors, passage_vectors)
    evaluators = _evaluators(benchmark)
    next(iter(evaluators.values())).compute_all_metrics(lookup)

    def run_round() -> float:
        _write_maps(_run_evaluators(evaluators, lookup), out)
        return 1

    return run_round


def map_by_pool(benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> MapByPool:
    """Compute the mAP of every query language in every pool with this project's metrics, cut at DEPTH."""
    lookup = _VectorLookup(benchmark, query_vectors, passage_vectors)
    queries = lookup.queries([query.text for query in benchmark.queries])
    passages = lookup.passages([passage.text for passage in benchmark.passages])
    index = PassageIndex.of(PassageIndexShard(passages))
    return _maps_to_depth(compute_retrieval_metrics(benchmark, queries, index).per_query)


def reference_map_by_pool(benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> MapByPool:
    """Compute the mAP of every query language in every pool with sentence-transformers' evaluators."""
    return _run_evaluators(_evaluators(benchmark), _VectorLookup(benchmark, query_vectors, passage_vectors))


def make_parallel_benchmark(num_languages: int, questions: int, passages: int) -> Benchmark:
    """Make a retrieval set whose questions are each answered by one passage in every language.

    Args:
        num_languages: of questions and passages.
        questions: in each language.
        passages: in all languages together, split as evenly as possible.
    """
    languages = [f"l{number:02d}" for number in range(num_languages)]
    counts = [passages // num_languages + (number < passages % num_languages) for number in range(num_languages)]

    def answer(language: str, count: int, question: int) -> str:
        return f"{language}:p{question * count // questions:05d}"

    sizes = list(zip(languages, counts, strict=True))
    return Benchmark(
        "synthetic",
        [Query(f"{x}:q{n:05d}", x, f"{x} question {n}", f"q{n}") for x in languages for n in range(questions)],
        [Passage(f"{x}:p{n:05d}", x, f"{x} passage {n}") for x, count in sizes for n in range(count)],
        {f"{x}:q{n:05d}": {answer(y, count, n): 1 for y, count in sizes} for x in languages for n in range(questions)},
    )


def _vectors(benchmark: Benchmark, settings: BenchSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of a benchmark's questions (Q, D) and passages (P, D)."""
    if settings.model and settings.xquad and not settings.quick:
        from hbt_ray.models.encoder import load_pretrained
        from hbt_ray.models.text_embedder import TextEmbedder

        embedder = TextEmbedder(load_pretrained(settings.model))
        queries = embedder.queries([query.text for query in benchmark.queries])
        return queries, embedder.passages([passage.text for passage in benchmark.passages])
    rng = np.random.default_rng(0)
    queries, passages = (
        rng.standard_normal((len(texts), WIDTH), np.float32) for texts in (benchmark.queries, benchmark.passages)
    )
    return _normalize(queries), _normalize(passages)


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_maps(maps: MapByPool, path: Path) -> None:
    path.write_text(json.dumps([[*pool, value] for pool, value in maps.items()]), encoding="utf-8")


def _read_maps(path: Path) -> MapByPool:
    return {(query, passage): value for query, passage, value in load_json(path.read_text(encoding="utf-8"))}


def _maps_to_depth(per_query: pa.Table) -> MapByPool:
    """Compute mAP by query and passage language from ranks, counting only the first DEPTH passages."""
    precisions: dict[tuple[str, str | None], list[float]] = {}
    columns = per_query.select(["language", "passage_language", "ranks", "relevant"]).to_pydict().values()
    for language, passage_language, ranks, relevant in zip(*columns, strict=True):
        precision_sum = sum(number / rank for number, rank in enumerate(ranks, start=1) if rank <= DEPTH)
        precisions.setdefault((language, passage_language), []).append(precision_sum / max(relevant, 1))
    return {pool: statistics.fmean(values) for pool, values in precisions.items()}


def _evaluators(benchmark: Benchmark) -> Evaluators:
    """Return an evaluator for each query language and pool."""
    query_languages = sorted({query.language for query in benchmark.queries})
    passage_languages = [*sorted({passage.language for passage in benchmark.passages}), ALL_LANGUAGES]
    return {
        (query, passage): _evaluator(benchmark, query, passage)
        for query in query_languages
        for passage in passage_languages
    }


def _run_evaluators(evaluators: Evaluators, lookup: Any) -> MapByPool:
    metrics: dict[tuple[str, str | None], Any] = {
        pool: evaluator.compute_all_metrics(lookup) for pool, evaluator in evaluators.items()
    }
    return {pool: values["cosine"]["map@k"][DEPTH] for pool, values in metrics.items()}


def _evaluator(
    benchmark: Benchmark, query_language: str, passage_language: str | None
) -> InformationRetrievalEvaluator:
    """Return an evaluator whose texts are ids, for `_VectorLookup`."""
    pool = [
        p.passage_id for p in benchmark.passages if passage_language is ALL_LANGUAGES or p.language == passage_language
    ]
    in_pool = frozenset(pool)
    queries: dict[str, Any] = {q.query_id: q.query_id for q in benchmark.queries if q.language == query_language}
    passages: dict[str, Any] = {name: name for name in pool}
    relevant = {
        query: {name for name, grade in _grades(benchmark, query).items() if grade > 0 and name in in_pool}
        for query in queries
    }
    return InformationRetrievalEvaluator(
        queries,
        passages,
        relevant,
        map_at_k=[DEPTH],
        score_functions={"cosine": lambda one, other: one @ other.T},  # of unit vectors
    )


def _grades(benchmark: Benchmark, query: str) -> Mapping[str, int]:
    return benchmark.judgements.get(query, {})


class _VectorLookup:
    """Precomputed vectors in place of a model: found by text for this project, by id for the baseline."""

    def __init__(self, benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> None:
        self._query_vectors = query_vectors
        self._passage_vectors = passage_vectors
        self._query_rows = {query.text: row for row, query in enumerate(benchmark.queries)}
        self._passage_rows = {passage.text: row for row, passage in enumerate(benchmark.passages)}
        # Equal texts have one vector, in both contestants.
        self._rows = {query.query_id: self._query_rows[query.text] for query in benchmark.queries}
        self._rows |= {passage.passage_id: self._passage_rows[passage.text] for passage in benchmark.passages}

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._query_vectors[[self._query_rows[text] for text in texts]]

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._passage_vectors[[self._passage_rows[text] for text in texts]]

    def encode_query(self, ids: Sequence[str], **_: object) -> torch.Tensor:
        return torch.from_numpy(self._query_vectors[[self._rows[name] for name in ids]])

    def encode_document(self, ids: Sequence[str], **_: object) -> torch.Tensor:
        return torch.from_numpy(self._passage_vectors[[self._rows[name] for name in ids]])
