"""Search in shards, each held by an actor, against one flat index in this process."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from hbt_ray.bench.own_process import run_in_subprocess
from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.timing import peak_mib
from hbt_ray.cluster.evaluation.sharded_search import sharded_pool
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import EvaluateConfig
from hbt_ray.retrieval.embedding_cache import EmbeddingCache, write_cache_manifest, write_embedding_shard
from hbt_ray.retrieval.faiss_index import flat_index, top_k
from hbt_ray.retrieval.passage_index import shard_bounds
from hbt_ray.retrieval.passage_windows import WindowedPassages

SHARDS = (1, 2, 4)


def search(settings: BenchSettings) -> BenchResult:
    """Queries per second in the most shards, over those of one flat index in this process; in the details each number.

    Passages are synthetic, and their nearest neighbours known: each query is a passage moved a little.
    """
    passages, queries = (20_000, 16) if settings.quick else (1_000_000, 256)
    with scratch_folder(settings.out / "search") as scratch:
        results = bench_sharded_search(
            scratch, passages=passages, queries=queries, shards=SHARDS, rounds=settings.rounds
        )
    most = results[-1]
    details = {"peer_is": "one flat index", "passages": passages, "flat_peak_mib": most["flat_peak_mib"]}
    for result in results:
        details |= {
            f"{result['shards']}_shards": {
                name: result[name] for name in ("queries_per_s", "peak_mib", "found", "equal")
            }
        }
    return of_rounds(most["rounds"], most["flat_rounds"], "queries/s", details)


def bench_sharded_search(
    out: Path,
    *,
    passages: int = 1_000_000,
    width: int = 64,
    queries: int = 256,
    shards: Sequence[int] = SHARDS,
    rounds: int = 1,
) -> list[dict[str, Any]]:
    """Search among synthetic passages, in several numbers of shards.

    Returns:
        For each number of shards: `shards`; `found`, the share of queries whose passage comes first; `equal`, whether
        the first 100 are those that one flat index in this process lists; `queries_per_s` and `peak_mib`, the most
        memory that any of the shards' processes held; `rounds` and `flat_rounds`, queries a second of each round, in
        turns; and `flat_peak_mib`, of a process that holds the flat index alone.
    """
    connect()
    folder = out / f"vectors-{passages}-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    parts, sizes, files = [], [], []
    for number, (start, stop) in enumerate(shard_bounds(passages, -(-passages // 100_000))):
        part = rng.standard_normal((stop - start, width), dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        files.append(write_embedding_shard(folder, number, part))
        sizes.append(stop - start)
        parts.append(part)
    write_cache_manifest(folder, files, sizes, width)
    vectors = np.concatenate(parts)
    known = rng.choice(passages, queries, replace=False)
    asked = vectors[known] + rng.normal(0, 0.05, (queries, width)).astype(np.float32)
    _, expected = top_k(asked, vectors, 100)
    flat = flat_index(vectors)
    flat_peak_mib = run_in_subprocess(_flat_peak_mib, folder, asked)
    results = []
    whole = WindowedPassages([], np.arange(passages), None)
    for number in shards:
        with sharded_pool(folder, whole, EvaluateConfig(shards=number)) as (pool, actors):
            pool.top_k(asked[:8], 100)
            flat.search(asked[:8], 100)
            own, flats = [], []
            for _ in range(rounds):
                seconds, (_, columns) = _timed(functools.partial(pool.top_k, asked, 100))
                flat_seconds, _ = _timed(functools.partial(flat.search, asked, 100))
                own.append(queries / seconds)
                flats.append(queries / flat_seconds)
            results.append(
                {
                    "shards": number,
                    "found": float((columns[:, 0] == known).mean()),
                    "equal": bool((columns == expected).all()),
                    "queries_per_s": statistics.median(own),
                    "peak_mib": max(ray.get([actor.peak_memory.remote() for actor in actors])) / 2**20,
                    "rounds": own,
                    "flat_rounds": flats,
                    "flat_peak_mib": flat_peak_mib,
                }
            )
    return results


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


def _flat_peak_mib(folder: Path, asked: np.ndarray) -> float:
    """The most MiB held by a process that searches one flat index."""
    files = EmbeddingCache(folder)
    flat_index(files.take(np.arange(len(files)))).search(asked, 100)
    return peak_mib()
