"""From the command to the first optimizer step: `hbt train`, against a bare process that loads and steps."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import ray

from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.result import BenchResult, of_rounds
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import (
    CorpusConfig,
    ModelConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
    dump_config,
)
from hbt_ray.errors import UserError

LOOK_EVERY_S = 0.01

# What any training of a sentence-transformers model does before its first step is done.
BARE = """
import sys, torch
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids = torch.randint(5, len(model.tokenizer), (16, 24))
features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
vectors = model(features)["sentence_embedding"]
torch.nn.functional.cross_entropy(vectors[:8] @ vectors[8:].T / 0.05, torch.arange(8)).backward()
optimizer.step()
"""


def start_up(settings: BenchSettings) -> BenchResult:
    """Seconds from the command `hbt train`, on a machine without a cluster, to its first optimizer step done.

    The store is prepared already and MLflow's file is there. The details tell the same of a cluster that runs. The peer
    is a process that imports torch and sentence-transformers, loads the same model and does a step.
    """
    connect()
    joining = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with scratch_folder(settings.out / "start_up") as scratch:
        config = _config(encoder_to_measure(settings.model, scratch, quick=True))
        file = scratch / "run.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        model = str(config.model.path)
        if not settings.quick:
            _train_s(file, scratch / "warm-up", joining)
            _bare_s(model)
        from_nothing, on_cluster, bare = [], [], []
        for number in range(1 if settings.quick else settings.rounds):
            bare.append(_bare_s(model))
            on_cluster.append(_train_s(file, scratch / f"joining-{number}", joining))
            # A test's cluster is not left alone for another one.
            alone_s = on_cluster[-1] if settings.quick else _train_s(file, scratch / f"alone-{number}", alone)
            from_nothing.append(alone_s)
    details = {"peer_is": "imports, the same model and one step", "on_a_cluster_s": statistics.median(on_cluster)}
    return of_rounds(from_nothing, bare, "s", details)


def _config(model: str) -> RunConfig:
    return RunConfig(
        corpora=(CorpusConfig(format="embedded"),),
        model=ModelConfig(path=model),
        train=TrainConfig(steps=1, global_batch_pairs=16, gpu=False, threads_per_worker=1),
        tracking=TrackingConfig(log_model=False),
    )


def _train_s(config: Path, out: Path, environment: Mapping[str, str]) -> float:
    """Seconds until the command begins to write the checkpoint of its only step, which it does at once."""
    command = [sys.executable, "-m", "hbt_ray.cli", "train", "--config", str(config), "--out", str(out)]
    checkpoints = out / "checkpoints"
    began_s = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = 0.0
    while process.poll() is None and not seconds:
        time.sleep(LOOK_EVERY_S)
        if checkpoints.exists() and any(checkpoints.iterdir()):
            seconds = time.perf_counter() - began_s
    if seconds:
        process.terminate()  # what follows is not measured
    told, _ = process.communicate()
    if not seconds:
        raise UserError(f"hbt train ended with exit code {process.returncode}: {told[-500:]}")
    return seconds


def _bare_s(model: str) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, model], check=True, capture_output=True)
    return time.perf_counter() - began_s
