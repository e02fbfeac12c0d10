"""Vectors can be truncated for an evaluation, and its report says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.errors import ConfigError
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.run_evaluation import description, open_embedder
from hbt_ray.models.text_embedder import TextEmbedder, TokenIdEmbedder
from tests.helpers import tiny_corpus

TEXTS = [tiny_corpus.passage(language, item) for language in tiny_corpus.LANGUAGES for item in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return an encoder of 16 dimensions, and a benchmark."""
    made: Path = tmp_path_factory.mktemp("dimensions")
    tiny_corpus.make_encoder(made / "encoder")
    (made / "pairs").mkdir()
    for language in tiny_corpus.LANGUAGES:
        rows = [
            {"id": str(i), "question": tiny_corpus.question(language, i), "context": tiny_corpus.passage(language, i)}
            for i in range(20)
        ]
        (made / "pairs" / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


class Cut:
    """Whole vectors, cut by hand."""

    def __init__(self, whole: TextEmbedder, dimensions: int) -> None:
        self.whole = whole
        self.dimensions = dimensions

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._cut(self.whole.queries(texts))

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._cut(self.whole.passages(texts))

    def _cut(self, vectors: np.ndarray) -> np.ndarray:
        first = vectors[:, : self.dimensions]
        return first / np.linalg.norm(first, axis=1, keepdims=True)


def evaluated(folder: Path, out: Path, *options: str) -> Result:
    benchmark = f"pairs={folder / 'pairs'}"
    arguments = ["evaluate", "--model", str(folder / "encoder"), "--benchmark", benchmark, "--out", str(out)]
    return CliRunner().invoke(main, [*arguments, *options])


@pytest.mark.parametrize("dimensions", [1, 7, 16])
def test_vectors_are_the_first_values_at_unit_length(folder, dimensions):
    encoder = tiny_corpus.make_encoder(folder / "encoder")
    found = TextEmbedder(encoder, dimensions=dimensions).passages(TEXTS)
    assert found.shape == (len(TEXTS), dimensions)
    assert np.allclose(found, Cut(TextEmbedder(encoder), dimensions).passages(TEXTS), atol=1e-6)
    assert TextEmbedder(encoder, dimensions=dimensions).passages([]).shape == (0, dimensions)
    tokens = [
        " ".join(map(str, tiny_corpus.tokenizer()(tiny_corpus.TEXT.passage_prefix + text)["input_ids"]))
        for text in TEXTS
    ]
    assert np.allclose(TokenIdEmbedder(encoder, dimensions=dimensions).passages(tokens), found, atol=1e-6)


def test_metrics_are_those_of_vectors_that_were_cut_before(folder):
    benchmark = load_benchmark("pairs", str(folder / "pairs"))
    settings = EvaluateConfig(dimensions=4)
    found = evaluate_benchmark(open_embedder(str(folder / "encoder"), settings), benchmark, settings)
    whole = open_embedder(str(folder / "encoder"), EvaluateConfig())
    assert found.metrics == pytest.approx(
        evaluate_benchmark(Cut(whole, 4), benchmark, EvaluateConfig()).metrics, rel=1e-6
    )
    assert found.metrics != evaluate_benchmark(whole, benchmark, EvaluateConfig()).metrics


def test_report_states_the_truncated_width(folder, tmp_path):
    result = evaluated(folder, tmp_path / "cut", "--dimensions", "4")
    assert result.exit_code == 0, result.output
    assert "vectors are cut to their first 4 dimensions" in result.output
    assert "The vectors are cut to their first 4 dimensions." in (tmp_path / "cut" / "report.md").read_text()
    summary = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert summary["model"]["dimensions"] == summary["settings"]["dimensions"] == 4


def test_report_of_full_vectors_does_not_mention_truncation(folder, tmp_path):
    result = evaluated(folder, tmp_path / "whole")
    assert result.exit_code == 0, result.output
    assert "dimensions" not in result.output + (tmp_path / "whole" / "report.md").read_text()
    # By what is described, the vectors of passages are found again.
    assert "dimensions" not in description("x", TextEmbedder(tiny_corpus.make_encoder(folder / "encoder")))


def test_more_dimensions_than_the_model_has_is_an_error(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^dimensions 17 are more than the 16 of the model's vectors; write 16 or"):
        TextEmbedder(tiny_corpus.make_encoder(folder / "encoder"), dimensions=17)
    result = evaluated(folder, tmp_path / "out", "--dimensions", "17")
    assert result.exit_code == 2
    assert "dimensions 17 are more than the 16" in result.stderr
