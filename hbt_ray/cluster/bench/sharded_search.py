"""Speed of search in shards, each held by an actor, against one flat index in this process."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import ray

from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import peak_mib, scratch_folder
from hbt_ray.cluster.evaluation.sharded_search import sharded_index
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import EvaluateConfig
from hbt_ray.retrieval.embedding_cache import EmbeddingCache, write_cache_manifest, write_embedding_shard
from hbt_ray.retrieval.exact_search import top_k
from hbt_ray.retrieval.faiss_index import flat_index
from hbt_ray.retrieval.passage_index import shard_bounds
from hbt_ray.retrieval.passage_windows import WindowedPassages
from hbt_ray.utils.digests import JsonObject
from hbt_ray.utils.process import run_in_subprocess

SHARDS = (1, 2, 4)
T = TypeVar("T")


def bench_sharded_search(settings: BenchSettings) -> BenchResult:
    """Compare queries per second in the largest number of shards with those of one flat index in this process.

    Passages are random vectors, and each query is a passage with a little noise, so that its nearest neighbour is
    known. Details `..._shards`: the values of each number of shards.
    """
    passages, queries = (20_000, 16) if settings.quick else (1_000_000, 256)
    with scratch_folder(settings.out / "search") as scratch:
        results = compare_shard_counts(
            scratch, passages=passages, queries=queries, shards=SHARDS, rounds=settings.rounds
        )
    largest = results[-1]
    details = {"peer_is": "one flat index", "passages": passages, "flat_peak_mib": largest["flat_peak_mib"]}
    for result in results:
        details |= {
            f"{result['shards']}_shards": {
                name: result[name] for name in ("queries_per_s", "peak_mib", "found", "equal")
            }
        }
    return summarize_rounds(largest["rounds"], largest["flat_rounds"], "queries/s", details)


def compare_shard_counts(
    out: Path,
    *,
    passages: int = 1_000_000,
    width: int = 64,
    queries: int = 256,
    shards: Sequence[int] = SHARDS,
    rounds: int = 1,
) -> list[JsonObject]:
    """Search among synthetic passages, in several numbers of shards.

    Args:
        out: folder of the vectors.
        passages: their number.
        width: of the vectors.
        queries: their number.
        shards: the numbers of shards to compare.
        rounds: searches of the shards, alternating with searches of the flat index.

    Returns:
        For each number of shards: `shards`; `found`, the fraction of queries whose passage is first; `equal`, True if
        the first 100 passages are those of one flat index in this process; `queries_per_s`, the median of `rounds`;
        `peak_mib`, the peak memory of the largest shard process; `rounds` and `flat_rounds`, queries per second of each
        round; `flat_peak_mib`, the peak memory of a process that holds only the flat index.
    """
    connect()
    folder = out / f"vectors-{passages}-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    parts, files = [], []
    for number, (start, stop) in enumerate(shard_bounds(passages, -(-passages // 100_000))):
        part = rng.standard_normal((stop - start, width), dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        files.append(write_embedding_shard(folder, number, part))
        parts.append(part)
    write_cache_manifest(folder, files, width)
    vectors = np.concatenate(parts)
    known = rng.choice(passages, queries, replace=False)
    query_vectors = vectors[known] + rng.normal(0, 0.05, (queries, width)).astype(np.float32)
    _, expected = top_k(query_vectors, vectors, 100)
    flat = flat_index(vectors)
    flat_peak_mib = run_in_subprocess(_flat_peak_mib, folder, query_vectors)
    results = []
    unwindowed = WindowedPassages([], np.arange(passages), None)
    for number in shards:
        with sharded_index(folder, unwindowed, EvaluateConfig(shards=number)) as (pool, actors):
            pool.top_k(query_vectors[:8], 100)
            flat.search(query_vectors[:8], 100)
            sharded_rates, flat_rates = [], []
            for _ in range(rounds):
                seconds, (_, columns) = _timed(functools.partial(pool.top_k, query_vectors, 100))
                flat_seconds, _ = _timed(functools.partial(flat.search, query_vectors, 100))
                sharded_rates.append(queries / seconds)
                flat_rates.append(queries / flat_seconds)
            results.append(
                {
                    "shards": number,
                    "found": float((columns[:, 0] == known).mean()),
                    "equal": bool((columns == expected).all()),
                    "queries_per_s": statistics.median(sharded_rates),
                    "peak_mib": max(ray.get([actor.peak_memory.remote() for actor in actors])) / 2**20,
                    "rounds": sharded_rates,
                    "flat_rounds": flat_rates,
                    "flat_peak_mib": flat_peak_mib,
                }
            )
    return results


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


def _flat_peak_mib(folder: Path, query_vectors: np.ndarray) -> float:
    """Search one flat index and return this process's peak memory in MiB."""
    files = EmbeddingCache(folder)
    flat_index(files.take(np.arange(len(files)))).search(query_vectors, 100)
    return peak_mib()
