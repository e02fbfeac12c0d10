from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.types import Benchmark, Passage
from hbt_ray.export import check_exports, sample_texts
from tests.unit.evaluation.report.by_hand import BENCHMARK


class Moved:
    """An encoder in memory whose vectors differ from those of another one by known amounts."""

    similarity = "cosine"

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def queries(self, texts):
        return self.vectors[: len(texts)]

    passages = queries


def test_differences_are_those_of_the_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    other = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    embedders = iter([Moved(one), Moved(other)])
    monkeypatch.setattr("hbt_ray.export.check.TextEmbedder", lambda encoder: next(embedders))
    monkeypatch.setattr("hbt_ray.export.check.with_exported", lambda encoder, file: encoder)
    (tmp_path / "model.onnx").write_bytes(bytes(2_500_000))
    [found] = check_exports(None, [tmp_path / "model.onnx"], ["a", "b"], [])
    assert (found.megabytes, found.max_difference, found.min_cosine) == (2.5, pytest.approx(0.6), pytest.approx(0.8))


def test_map_is_compared_by_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The second question's passage is first for the original, and second for the file.
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.3, 0.9], [0.1, 0.8]], np.float32)
    worse = np.array([[0.9, 0.1], [0.2, 0.3], [0.3, 0.9], [0.1, 0.95]], np.float32)

    class Scored(Moved):
        def queries(self, texts):
            return np.eye(2, dtype=np.float32)

        def passages(self, texts):
            return self.vectors

    embedders = iter([Scored(worse), Scored(scores)])
    monkeypatch.setattr("hbt_ray.export.check.TextEmbedder", lambda encoder: next(embedders))
    monkeypatch.setattr("hbt_ray.export.check.with_exported", lambda encoder, file: encoder)
    (tmp_path / "model.onnx").touch()
    [found] = check_exports(None, [tmp_path / "model.onnx"], ["a"] * 4, [BENCHMARK])
    assert found.map_by_language["paper"] == {"de": (1.0, 1.0), "en": (1.0, 0.5), "all": (1.0, 0.75)}


def test_texts_are_spread_over_the_passages():
    passages = [Passage(str(number), "en", f"text {number}") for number in range(1500)]
    texts = sample_texts([Benchmark("b", [], passages, {})])
    assert (len(texts), texts[0], texts[-1]) == (500, "text 0", "text 1497")
    assert len(sample_texts([])) > 3
