"""The parts that time training and embedding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hbt_ray.bench.fixtures import bench_encoder
from hbt_ray.bench.training import count_linear_weights, gradient_caching_error, make_matmul_round
from tests.helpers.paths import REPOSITORY


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return bench_encoder(None, tmp_path_factory.mktemp("encoder"), quick=True)


@pytest.fixture(scope="module")
def without_ray(tmp_path_factory) -> Path:
    """Return a folder to import from first, in which importing Ray fails."""
    folder: Path = tmp_path_factory.mktemp("imports")
    (folder / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    return folder


def test_parts_without_ray_run_where_it_is_not_installed(without_ray, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{without_ray}:{REPOSITORY}"}
    command = [sys.executable, "-m", "hbt_ray.cli", "bench", "--quick", "--rounds", "1", "--out", str(tmp_path)]
    parts = ["--part", "train_step", "--part", "embed"]
    done = subprocess.run([*command, *parts], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    for name, unit in (("train_step", "pairs/s"), ("embed", "texts/s")):
        result = results[name]
        assert result["unit"] == unit
        assert result["ratio"] == pytest.approx(result["value"] / result["peer"], rel=1e-6)
        assert result["details"]["peak_mib"] > 100
    assert results["embed"]["details"]["least_cosine"] > 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]  # no scratch is left

    refused = subprocess.run([*command, "--part", "start_up"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("hbt: start_up needs ray; pip install 'hbt_ray[bench]'")


def test_linear_weights_are_those_inside_the_layers(encoder):
    # One layer of width 32: query, key, value and output of 32 x 32, up and down of 32 x 128; no pooler, no embeddings.
    assert count_linear_weights(encoder) == 4 * 32 * 32 + 2 * 32 * 128


def test_matrix_product_counts_two_operations_per_term():
    before = torch.get_num_threads()
    assert make_matmul_round(False, 0.01)() % (2 * 2048**3) == 0
    assert torch.get_num_threads() == before


def test_gradient_caching_error_is_a_rounding_error(encoder):
    assert gradient_caching_error(encoder, None, 32) < 1e-5
