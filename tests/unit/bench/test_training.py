"""The parts that time training and embedding."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from hbt_ray.bench.embedding import bench_embedding
from hbt_ray.bench.exact_search import bench_exact_search
from hbt_ray.bench.fixtures import bench_encoder
from hbt_ray.bench.grad_cache import bench_grad_cache_overhead
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult, summarize_rounds
from hbt_ray.bench.timing import Contestant, peak_mib
from hbt_ray.bench.training import bench_train_step, count_linear_weights, gradient_caching_error, make_matmul_round
from hbt_ray.bench.vocabulary import bench_train_step_e5, bench_vocabulary_state
from tests.helpers.paths import REPOSITORY
from tests.unit.bench.conftest import COMMAND


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return bench_encoder(None, tmp_path_factory.mktemp("encoder"), quick=True)


def check_result(result: dict[str, Any], unit: str) -> None:
    assert result["unit"] == unit
    assert result["ratio"] == pytest.approx(result["value"] / result["peer"], rel=1e-6)
    assert result["details"]["peak_mib"] > 100


@pytest.mark.skipif("HBT_SLOW_TESTS" not in os.environ, reason="takes half a minute: set HBT_SLOW_TESTS")
def test_training_and_embedding_are_timed_in_processes_without_ray(without_ray, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{without_ray}:{REPOSITORY}"}
    parts = ["--part", "train_step", "--part", "embed"]
    command = [*COMMAND, "--out", str(tmp_path), *parts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    check_result(results["train_step"], "pairs/s")
    check_result(results["embed"], "texts/s")
    assert results["embed"]["details"]["least_cosine"] > 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def compare_in_this_process(
    ours: Contestant,
    baseline: Contestant,
    *,
    unit: str,
    rounds: int,
    warm_up: int = 1,
    details: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Stand in for `compare_alternating`: the same calls without new processes, which import torch for seconds."""
    functions = [contestant.prepare(*contestant.arguments) for contestant in (ours, baseline)]
    values, baselines = ([run_round() for _ in range(warm_up + rounds)][warm_up:] for run_round in functions)
    memory = {"peak_mib": peak_mib(), "peer_peak_mib": peak_mib()}
    return summarize_rounds(values, baselines, unit, {**(details or {}), **memory})


@pytest.mark.parametrize(
    ("module", "bench", "unit"),
    [
        ("training", bench_train_step, "pairs/s"),
        ("embedding", bench_embedding, "texts/s"),
        ("exact_search", bench_exact_search, "questions/s"),
        ("vocabulary", bench_train_step_e5, "pairs/s"),
        ("grad_cache", bench_grad_cache_overhead, "pairs/s"),
    ],
)
def test_both_contestants_do_the_same_work(module, bench, unit, tmp_path, monkeypatch):
    monkeypatch.setattr(f"hbt_ray.bench.{module}.compare_alternating", compare_in_this_process)
    monkeypatch.setattr("hbt_ray.bench.grad_cache.run_in_subprocess", lambda function, *arguments: function(*arguments))
    result = bench(BenchSettings(tmp_path, rounds=2, quick=True))
    check_result(result.as_json(), unit)
    assert result.ratio == 1  # here the value is the work of a round, not work per second
    assert result.details.get("least_cosine", 1) > 0.99
    assert not list(tmp_path.iterdir())


def test_checkpoint_with_the_rows_that_occur_is_smaller(tmp_path):
    result = bench_vocabulary_state(BenchSettings(tmp_path, quick=True))
    rows, all_rows = result.details["rows"], result.details["peer_rows"]
    # Float32 weights and two moments of rows of width 32.
    assert result.baseline - result.value == pytest.approx((all_rows - rows) * 32 * 4 * 3 / 2**20)
    assert rows < all_rows / 2


def test_linear_weights_are_those_inside_the_layers(encoder):
    # One layer of width 32: query, key, value and output of 32 x 32, up and down of 32 x 128; no pooler, no embeddings.
    assert count_linear_weights(encoder) == 4 * 32 * 32 + 2 * 32 * 128


def test_matrix_product_counts_two_operations_per_term():
    before = torch.get_num_threads()
    assert make_matmul_round(False, 0.01)() % (2 * 2048**3) == 0
    assert torch.get_num_threads() == before


def test_gradient_caching_error_is_a_rounding_error(encoder):
    assert gradient_caching_error(encoder, None, 32) < 1e-5


def test_command_runs_where_ray_is_not_installed(refused_start_up, part_without_ray):
    assert refused_start_up.communicate()[1].strip().endswith("hbt: start_up needs ray; pip install 'hbt_ray[bench]'")
    assert refused_start_up.returncode == 2
    finish, out = part_without_ray
    finish()
    assert out.with_suffix(".log").read_text().splitlines()[-1] == "done"
    assert json.loads((out / "bench.json").read_text())["feed_40m"]["unit"] == "batches/s"
    assert [path.name for path in out.iterdir()] == ["bench.json"]  # no scratch is left
