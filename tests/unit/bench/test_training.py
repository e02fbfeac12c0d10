"""The benchmark of training and embedding: it measures what it says, and where Ray is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hbt_ray.bench.encoder import encoder_to_measure
from hbt_ray.bench.pairs import MAX_TOKENS, as_batch, batches_of_pairs
from hbt_ray.bench.training import gradient_apart, product_operations, weights_of_linear_layers
from hbt_ray.models.encoder import load_pretrained
from tests.helpers.paths import REPOSITORY


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return encoder_to_measure(None, tmp_path_factory.mktemp("encoder"), quick=True)


@pytest.fixture(scope="module")
def without_ray(tmp_path_factory) -> Path:
    """Imports look here first, and find that there is no Ray."""
    folder: Path = tmp_path_factory.mktemp("imports")
    (folder / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    return folder


def test_where_ray_is_not_installed_training_and_embedding_are_measured_and_a_cluster_is_refused(without_ray, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{without_ray}:{REPOSITORY}"}
    command = [sys.executable, "-m", "hbt_ray.cli", "bench", "--quick", "--rounds", "1", "--out", str(tmp_path)]
    parts = ["--part", "train_step", "--part", "embed"]
    done = subprocess.run([*command, *parts], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    for name, unit in (("train_step", "pairs/s"), ("embed", "texts/s")):
        figure = figures[name]
        assert figure["unit"] == unit
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["peer"], rel=1e-6)
        assert figure["details"]["peak_mib"] > 100
    assert figures["embed"]["details"]["least_cosine"] > 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]  # no scratch is left

    refused = subprocess.run([*command, "--part", "start_up"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("hbt: start_up needs ray; pip install 'hbt_ray[bench]'")


def test_a_tokens_operations_are_six_for_each_weight_it_is_multiplied_with(encoder):
    # One layer of width 32: query, key, value and output of 32 x 32, up and down of 32 x 128; no pooler, no embeddings.
    assert weights_of_linear_layers(encoder) == 4 * 32 * 32 + 2 * 32 * 128


def test_a_product_of_two_matrices_counts_two_operations_for_each_of_its_terms():
    before = torch.get_num_threads()
    assert product_operations(False, 0.01)() % (2 * 2048**3) == 0
    assert torch.get_num_threads() == before


def test_caching_leaves_the_measured_gradient_where_it_is(encoder):
    assert gradient_apart(encoder, None, 32) < 1e-5


def test_random_pairs_are_the_same_each_time_and_as_long_as_they_are_said_to_be(encoder):
    once, again = (batches_of_pairs(None, 3, 16) for _ in range(2))
    assert once == again
    assert once[0] != once[1]
    batch = as_batch(load_pretrained(encoder), once[0], 7)
    assert (batch.step, batch.num_pairs, batch.num_negatives) == (7, 16, 0)
    assert 8 <= batch.query_lengths.min() <= batch.query_lengths.max() <= 42
    assert 16 <= batch.passage_lengths.min() <= batch.passage_lengths.max() <= MAX_TOKENS


def test_pairs_of_xquad_r_stand_in_batches_of_one_language(shared_data):
    first = batches_of_pairs(str(shared_data / "xquad-r"), 6, 32)
    assert sum("?" in question for question in first[0].questions) > 24  # English; a few are none
    assert all(any("а" <= letter <= "я" for letter in question) for question in first[3].questions)  # Russian
