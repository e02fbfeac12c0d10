"""How much of the machine's speed a run on Ray keeps: the same steps under Ray Train and in a bare loop, in turns."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hbt_ray.batches import build_batch
from hbt_ray.cluster.connect import connect
from hbt_ray.cluster.pipeline import initial_model
from hbt_ray.cluster.prepare import prepare, store_tokenizer
from hbt_ray.cluster.train import resources_per_worker, train
from hbt_ray.config import RunConfig
from hbt_ray.experiment import RunFolder, run_folder, training_plan
from hbt_ray.model import load_encoder
from hbt_ray.store import TokenStore
from hbt_ray.trainer import Trainer

WARM_UP_STEPS = 20  # not counted


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
    ratios = [ray / alone for ray, alone in zip(under_ray, bare, strict=True)]
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
