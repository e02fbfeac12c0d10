"""The quickstart: an untrained encoder and each strategy, one after the other on one cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.cluster.evaluation.evaluate import evaluate_on_cluster
from hbt_ray.cluster.pipelines.train import run
from hbt_ray.cluster.prepare import prepare
from hbt_ray.cluster.runtime import connect
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.presets import BENCHMARK, STRATEGIES, UNTRAINED, quickstart_config
from hbt_ray.training.initial_model import prepare_initial_model
from hbt_ray.training.run_dir import run_dir_of
from hbt_ray.utils.atomic_write import atomic_write_text


@dataclass(frozen=True, slots=True)
class Quickstart:
    """Where the quickstart's results are."""

    folders: dict[str, Path]  # with reports, by strategy and of the untrained encoder
    summary: Path
    ui_command: str


def run_quickstart(out: Path, *, seed: int, steps: int) -> Quickstart:
    """Evaluate the untrained encoder, then train and evaluate each strategy with the same seed."""
    connect()
    metrics = {UNTRAINED: _evaluate_untrained(out, seed)}
    for strategy in STRATEGIES:
        finished = run(quickstart_config(strategy, seed, steps), out / strategy, fresh=True)
        metrics[strategy] = finished.metrics
    summary = out / "summary.json"
    atomic_write_text(summary, json.dumps({"seed": seed, "steps": steps, "metrics": metrics}, indent=1) + "\n")
    return Quickstart({name: out / name for name in metrics}, summary, finished.ui_command)


def _evaluate_untrained(out: Path, seed: int) -> dict[str, float]:
    config = quickstart_config(STRATEGIES[0], seed)
    folder = run_dir_of(config, out / UNTRAINED)
    store = prepare(config.prepare_inputs, folder.stores)
    model = prepare_initial_model(config, store_tokenizer(store, config.prepare_inputs), folder)
    [report] = evaluate_on_cluster(model, config.evaluate, folder.evaluations)
    assert report.benchmark == BENCHMARK
    return report.metrics
