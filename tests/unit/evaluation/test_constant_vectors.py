"""A model that maps all texts to one vector is evaluated with a warning."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from tests.helpers import model_folders, tiny_corpus


@dataclass
class Fake:
    """Vectors as two functions of the number of texts give them."""

    of_queries: Callable[[int], np.ndarray]
    of_passages: Callable[[int], np.ndarray]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.of_queries(len(texts))

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.of_passages(len(texts))


def random(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)


def zero(count: int) -> np.ndarray:
    return np.zeros((count, 4), np.float32)


def constant(count: int) -> np.ndarray:
    return np.full((count, 4), 0.5, np.float32) + random(count) * 1e-8


@pytest.mark.parametrize(
    ("of_queries", "of_passages", "expected"),
    [
        (random, random, []),
        (random, zero, ["the vector of all passages is 0"]),
        (constant, random, ["the vector of all queries is the same"]),
        (zero, constant, ["the vector of all queries is 0", "the vector of all passages is the same"]),
    ],
)
def test_constant_vectors_of_a_side_are_named(tmp_path, of_queries, of_passages, expected):
    benchmark = load_benchmark("pairs", str(model_folders.write_pairs(tmp_path / "pairs")))
    report = evaluate_benchmark(Fake(of_queries, of_passages), benchmark, EvaluateConfig())
    assert [warning.partition(":")[0] for warning in report.warnings] == expected


def test_an_all_zero_model_is_warned_of_in_report_and_terminal(tmp_path: Path):
    encoder: SentenceTransformer = tiny_corpus.make_encoder(tmp_path / "made")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    encoder.save(str(tmp_path / "zero"), create_model_card=False)
    pairs = model_folders.write_pairs(tmp_path / "pairs")
    arguments = ["--model", str(tmp_path / "zero"), "--benchmark", f"pairs={pairs}", "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(main, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    sentence = "the vector of all passages is 0: the model does not distinguish texts"
    assert f"warning: {sentence}" in " ".join(result.output.split())
    assert any(sentence in warning for warning in json.loads((tmp_path / "report/report.json").read_text())["warnings"])
    assert f"**Warning: {sentence}" in (tmp_path / "report/report.md").read_text()
