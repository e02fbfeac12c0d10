"""How fast a benchmark is measured: one pass here, against sentence-transformers' evaluator, one for each pool."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.timing import Contestant, compare_alternating
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.retrieval_metrics import compute_retrieval_metrics
from hbt_ray.retrieval.passage_index import PassageIndex, PassageIndexShard

ALL = None  # the pool of all languages
MOST_ROUNDS = 2  # theirs takes long, and differs little from round to round
REPEATS = 3  # of ours in a round
DEPTH = 100  # their default depth of mAP
WIDTH = 384  # of random vectors

Maps = dict[tuple[str, str | None], float]  # mAP by question language and pool


def measures(settings: BenchSettings) -> BenchResult:
    """Seconds from vectors to all measures of XQuAD-R: Mono of every language, Cross of every pair, Multi.

    Theirs takes the first 100 passages of each pool, as it does by default; ours ranks every relevant passage, and
    finds rank distance, the matrix and the per-query table as well. Neither writes a report. Vectors are random, which
    takes longest, since most passages lie close; those of a model where one is named and XQuAD-R is at hand.
    """
    if settings.quick:
        benchmark = parallel_benchmark(3, 40, 60)
    elif settings.xquad is None:
        benchmark = parallel_benchmark(11, 1_190, 13_014)
    else:
        benchmark = load_benchmark("xquad-r", settings.xquad)
    queries, passages = _vectors(benchmark, settings)
    return compare_measures(benchmark, queries, passages, settings.out / "measures", rounds=settings.rounds)


def compare_measures(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, scratch: Path, *, rounds: int
) -> BenchResult:
    """All measures of a benchmark here, against one evaluator of sentence-transformers for each of its pools.

    Args:
        query_vectors: (Q, D) float32 unit vectors, in the order of the benchmark.
        passage_vectors: (P, D) likewise.
        scratch: a folder that is emptied first and deleted afterwards.

    Returns:
        The figure, in whose details `evaluations` is their number, and `map_apart` how far the two mAPs of any of them
        are from each other, over the passages that theirs looks at.
    """
    vectors = (benchmark, query_vectors, passage_vectors)
    with scratch_folder(scratch):
        figure = compare_alternating(
            Contestant(measuring, (*vectors, scratch / "ours.json"), repeats=REPEATS),
            Contestant(evaluating, (*vectors, scratch / "theirs.json")),
            unit="s",
            rounds=min(rounds, MOST_ROUNDS),
            warm_up=0,
        )
        ours, theirs = (_read(scratch / name) for name in ("ours.json", "theirs.json"))
    told = {
        "peer_is": "sentence-transformers' InformationRetrievalEvaluator, once for each pool",
        "evaluations": len(theirs),
        "map_apart": max(abs(ours[cell] - theirs[cell]) for cell in theirs),
    }
    return replace(figure, details=told | dict(figure.details))


def measuring(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, out: Path
) -> Callable[[], float]:
    """Measures everything once a round, after a round that does not count; leaves the mAPs in `out`."""
    lookup = _Lookup(benchmark, query_vectors, passage_vectors)
    _write(our_maps(benchmark, query_vectors, passage_vectors), out)
    queries = lookup.queries([query.text for query in benchmark.queries])
    passages = lookup.passages([passage.text for passage in benchmark.passages])

    def work() -> float:
        compute_retrieval_metrics(benchmark, queries, PassageIndex.of(PassageIndexShard(passages)))
        return 1

    return work


def evaluating(
    benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray, out: Path
) -> Callable[[], float]:
    """Runs every evaluator once a round, after one of them that does not count; leaves the mAPs in `out`."""
    lookup: Any = _Lookup(benchmark, query_vectors, passage_vectors)
    evaluators = _evaluators(benchmark)
    next(iter(evaluators.values())).compute_all_metrics(lookup)

    def work() -> float:
        _write(_evaluated(evaluators, lookup), out)
        return 1

    return work


def our_maps(benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> Maps:
    """The mAP of every question language in every pool, as all measures are found here."""
    lookup = _Lookup(benchmark, query_vectors, passage_vectors)
    queries = lookup.queries([query.text for query in benchmark.queries])
    passages = lookup.passages([passage.text for passage in benchmark.passages])
    return _maps_to_depth(
        compute_retrieval_metrics(benchmark, queries, PassageIndex.of(PassageIndexShard(passages))).per_query
    )


def their_maps(benchmark: Benchmark, query_vectors: np.ndarray, passage_vectors: np.ndarray) -> Maps:
    """The same by sentence-transformers' evaluators."""
    return _evaluated(_evaluators(benchmark), _Lookup(benchmark, query_vectors, passage_vectors))


def parallel_benchmark(num_languages: int, questions: int, passages: int) -> Benchmark:
    """A retrieval set of a size: `questions` in each language, each answered by one passage in every language.

    Args:
        passages: of all languages together, shared out as evenly as may be.
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
    """(Q, D), (P, D) unit vectors of a benchmark's questions and passages."""
    if settings.model and settings.xquad and not settings.quick:
        from hbt_ray.models.encoder import load_pretrained
        from hbt_ray.models.text_embedder import TextEmbedder

        embedder = TextEmbedder(load_pretrained(settings.model))
        queries = embedder.queries([query.text for query in benchmark.queries])
        return queries, embedder.passages([passage.text for passage in benchmark.passages])
    rng = np.random.default_rng(0)
    drawn = (rng.standard_normal((len(of), WIDTH), np.float32) for of in (benchmark.queries, benchmark.passages))
    one, other = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in drawn)
    return one, other


def _write(maps: Maps, path: Path) -> None:
    path.write_text(json.dumps([[*cell, value] for cell, value in maps.items()]), encoding="utf-8")


def _read(path: Path) -> Maps:
    return {(language, pool): value for language, pool, value in json.loads(path.read_text(encoding="utf-8"))}


def _maps_to_depth(per_query: pa.Table) -> Maps:
    """mAP of each question language in each pool, as it is when the first DEPTH passages alone are looked at."""
    precisions: dict[tuple[str, str | None], list[float]] = {}
    columns = per_query.select(["language", "passage_language", "ranks", "relevant"]).to_pydict().values()
    for language, pool, ranks, relevant in zip(*columns, strict=True):
        listed = sum(place / rank for place, rank in enumerate(ranks, start=1) if rank <= DEPTH)
        precisions.setdefault((language, pool), []).append(listed / max(relevant, 1))
    return {cell: statistics.fmean(values) for cell, values in precisions.items()}


def _evaluators(benchmark: Benchmark) -> dict[tuple[str, str | None], InformationRetrievalEvaluator]:
    """One for each question language and pool."""
    asked = sorted({query.language for query in benchmark.queries})
    pools = [*sorted({passage.language for passage in benchmark.passages}), ALL]
    return {(language, pool): _evaluator(benchmark, language, pool) for language in asked for pool in pools}


def _evaluated(evaluators: dict[tuple[str, str | None], InformationRetrievalEvaluator], lookup: Any) -> Maps:
    found: dict[Any, Any] = {cell: one.compute_all_metrics(lookup) for cell, one in evaluators.items()}
    return {cell: metrics["cosine"]["map@k"][DEPTH] for cell, metrics in found.items()}


def _evaluator(benchmark: Benchmark, language: str, pool: str | None) -> InformationRetrievalEvaluator:
    passages: Any = {p.passage_id: p.passage_id for p in benchmark.passages if pool is ALL or p.language == pool}
    queries: Any = {q.query_id: q.query_id for q in benchmark.queries if q.language == language}
    relevant = {
        key: {
            passage for passage, grade in benchmark.judgements.get(key, {}).items() if grade > 0 and passage in passages
        }
        for key in queries
    }
    scores = {"cosine": lambda one, other: one @ other.T}  # of unit vectors
    return InformationRetrievalEvaluator(queries, passages, relevant, map_at_k=[DEPTH], score_functions=scores)


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
