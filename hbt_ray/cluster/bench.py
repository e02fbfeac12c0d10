"""Speed on a cluster: training under Ray against a bare loop, and search in shards against one index."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from hbt_ray.batches import build_batch
from hbt_ray.cluster.connect import connect
from hbt_ray.cluster.pipeline import initial_model
from hbt_ray.cluster.prepare import prepare, store_tokenizer
from hbt_ray.cluster.retrieval import sharded_pool
from hbt_ray.cluster.train import resources_per_worker, train
from hbt_ray.config import EvaluateConfig, RunConfig
from hbt_ray.experiment import RunFolder, run_folder, training_plan
from hbt_ray.index import top_k
from hbt_ray.model import load_encoder
from hbt_ray.pool import shard_bounds
from hbt_ray.store import TokenStore
from hbt_ray.trainer import Trainer
from hbt_ray.vectors import commit, write_part
from hbt_ray.windows import Pieces

WARM_UP_STEPS = 100  # not counted: Ray goes on starting processes for seconds after a training has begun


def bench_train_under_ray(config: RunConfig, out: Path, *, rounds: int = 3) -> dict[str, Any]:
    """Steps per second of `hbt train` with one worker, over those of the same loop on ready-made batches.

    Both have the same threads, batches, model and precision. Ray's share includes the feed and every report.

    Returns:
        What `out/bench.json` then holds under "train_under_ray": value and peer in steps/s, the median of the
        rounds' ratios, and their smallest and largest.
    """
    connect()
    out.mkdir(parents=True, exist_ok=True)
    store = prepare(config, out / "stores")
    threads = int(resources_per_worker(config)["CPU"])
    folder = run_folder(config, out / "warm-up")
    model = initial_model(config, store_tokenizer(store, config), folder)
    bare, under_ray = [], []
    for number in range(rounds):
        bare.append(_bare_steps_per_s(config, store, model, threads))
        under_ray.append(_steps_per_s_under_ray(config, store, model, run_folder(config, out / f"round-{number}")))
    ratios = [with_ray / alone for with_ray, alone in zip(under_ray, bare, strict=True)]
    result = {
        "value": statistics.median(under_ray),
        "unit": "steps/s",
        "peer": statistics.median(bare),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    (out / "bench.json").write_text(json.dumps({"train_under_ray": result}, indent=1) + "\n", encoding="utf-8")
    return result


def _bare_steps_per_s(config: RunConfig, store_folder: Path, model: str, threads: int) -> float:
    torch.set_num_threads(threads)
    store = TokenStore.open(store_folder)
    plan = training_plan(config, store.manifest)
    batches = [build_batch(plan.batch(step), store) for step in range(config.train.steps)]
    trainer = Trainer(load_encoder(config.model, config.text, model), config.train, seed=config.seed)
    for step in range(WARM_UP_STEPS):
        trainer.step(step, [batches[step]])
    began_s = time.perf_counter()
    for step in range(WARM_UP_STEPS, config.train.steps):
        trainer.step(step, [batches[step]])
    return (config.train.steps - WARM_UP_STEPS) / (time.perf_counter() - began_s)


def _steps_per_s_under_ray(config: RunConfig, store: Path, model: str, folder: RunFolder) -> float:
    step_s: dict[int, float] = {}

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        if "train/pairs_per_s" in metrics:
            step_s[step] = config.train.global_batch_pairs / metrics["train/pairs_per_s"]

    train(config, store, model, folder, on_metrics)
    counted = [seconds for step, seconds in step_s.items() if step > WARM_UP_STEPS]
    return len(counted) / sum(counted)


def bench_sharded_search(
    out: Path, *, passages: int = 1_000_000, width: int = 64, queries: int = 256, shards: Sequence[int] = (1, 2, 4)
) -> list[dict[str, Any]]:
    """Search among synthetic passages whose nearest neighbours are known: each query is a passage moved a little.

    Returns:
        For each number of shards: `shards`; `found`, the share of queries whose passage comes first; `equal`, whether
        the first 100 are those that one flat index in this process lists; `queries_per_s`; and `peak_bytes`, the most
        memory that any of the shards' processes held.
    """
    connect()
    folder = out / f"vectors-{passages}-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    parts, sizes, files = [], [], []
    for number, (start, stop) in enumerate(shard_bounds(passages, -(-passages // 100_000))):
        part = rng.standard_normal((stop - start, width), dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        files.append(write_part(folder, number, part))
        sizes.append(stop - start)
        parts.append(part)
    commit(folder, files, sizes, width)
    vectors = np.concatenate(parts)
    known = rng.choice(passages, queries, replace=False)
    asked = vectors[known] + rng.normal(0, 0.05, (queries, width)).astype(np.float32)
    _, expected = top_k(asked, vectors, 100)
    results = []
    whole = Pieces([], np.arange(passages), None)
    for number in shards:
        with sharded_pool(folder, whole, EvaluateConfig(shards=number)) as (pool, actors):
            pool.top_k(asked[:8], 100)
            began_s = time.perf_counter()
            _, columns = pool.top_k(asked, 100)
            seconds = time.perf_counter() - began_s
            results.append(
                {
                    "shards": number,
                    "found": float((columns[:, 0] == known).mean()),
                    "equal": bool((columns == expected).all()),
                    "queries_per_s": queries / seconds,
                    "peak_bytes": max(ray.get([actor.peak_memory.remote() for actor in actors])),
                }
            )
    return results
