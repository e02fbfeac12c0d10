"""Start-up time of `hbt train` to its first optimizer step, against a minimal script that loads a model and steps."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import ray

from hbt_ray.bench.fixtures import bench_encoder
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import scratch_folder
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
from hbt_ray.utils.logging import LEVEL_VARIABLE
from hbt_ray.utils.start_up import START_UP

POLL_EVERY_S = 0.01
STAGE = re.compile(r"(?:: |, )([^:,]+) (\d+\.\d)")  # in the line of `describe_start_up`

# The minimum that any training of a sentence-transformers model does up to its first step.
MINIMAL_SCRIPT = """
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


def bench_startup(settings: BenchSettings) -> BenchResult:
    """Compare the seconds from `hbt train`, on a machine without a cluster, to the end of its first optimizer step.

    The store is prepared already and MLflow's database exists. The baseline is a process that imports torch and
    sentence-transformers, loads the same model and does a step. Detail `on_a_cluster_s`: the seconds of `hbt train`
    that connects to a running cluster. Detail `stages_s`: its seconds of each stage, without a cluster.
    """
    connect()
    with_cluster = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    without_cluster = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with scratch_folder(settings.out / "start_up") as scratch:
        config = _config(bench_encoder(settings.model, scratch, quick=True))
        file = scratch / "run.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        model = str(config.model.path)
        if not settings.quick:
            _train_s(file, scratch / "warm-up", with_cluster)
            _minimal_s(model)
        on_new_cluster, on_running_cluster, minimal = [], [], []
        stages: list[dict[str, float]] = []
        for number in range(1 if settings.quick else settings.rounds):
            minimal.append(_minimal_s(model))
            seconds, of_stages = _train_s(file, scratch / f"with-cluster-{number}", with_cluster)
            on_running_cluster.append(seconds)
            if not settings.quick:  # start no second cluster during a test
                seconds, of_stages = _train_s(file, scratch / f"without-cluster-{number}", without_cluster)
            on_new_cluster.append(seconds)
            stages.append(of_stages)
    details = {
        "peer_is": "imports, the same model and one step",
        "on_a_cluster_s": statistics.median(on_running_cluster),
        "stages_s": {name: statistics.median(one.get(name, 0.0) for one in stages) for name in stages[0]},
    }
    return summarize_rounds(on_new_cluster, minimal, "s", details)


def _config(model: str) -> RunConfig:
    return RunConfig(
        corpora=(CorpusConfig(format="embedded"),),
        model=ModelConfig(path=model),
        train=TrainConfig(steps=1, global_batch_pairs=16, gpu=False, threads_per_worker=1),
        tracking=TrackingConfig(log_model=False),
    )


def _train_s(config: Path, out: Path, environment: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """Return the seconds until `hbt train` begins to write a checkpoint, which follows its only step immediately.

    And, as the command logs them, those of each stage.
    """
    command = [sys.executable, "-m", "hbt_ray.cli", "train", "--config", str(config), "--out", str(out)]
    checkpoints = out / "checkpoints"
    began_s = time.perf_counter()
    environment = {**environment, LEVEL_VARIABLE: "info"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = 0.0
    while process.poll() is None and not seconds:
        time.sleep(POLL_EVERY_S)
        if checkpoints.exists() and any(checkpoints.iterdir()):
            seconds = time.perf_counter() - began_s
    if seconds:
        process.terminate()  # the rest of the run is not timed
    output, _ = process.communicate()
    if not seconds:
        raise UserError(f"hbt train ended with exit code {process.returncode}: {output[-500:]}")
    return seconds, {
        name: float(value) for name, value in STAGE.findall(output.partition(START_UP)[2].partition("\n")[0])
    }


def _minimal_s(model: str) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", MINIMAL_SCRIPT, model], check=True, capture_output=True)
    return time.perf_counter() - began_s
