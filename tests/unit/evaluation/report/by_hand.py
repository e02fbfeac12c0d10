"""A benchmark whose scores are given, so that every rank can be worked out on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark, Passage, Query
from hbt_ray.evaluation.evaluator import EvalReport, evaluate_benchmark

# passage -> its score for the first and for the second question
SCORES = {"de:0": (0.9, 0.1), "de:1": (0.5, 0.2), "en:0": (0.3, 0.8), "en:1": (0.7, 0.6)}
BENCHMARK = Benchmark(
    "paper",
    [Query("q:de", "de", "Wo?"), Query("q:en", "en", "Where?")],
    [Passage(name, name[:2], f"Text of {name}.") for name in SCORES],
    {"q:de": {"de:0": 1, "en:0": 1}, "q:en": {"de:1": 1, "en:1": 1}},
)


class GivenScores:
    """Questions are unit vectors, so that the inner products are the given scores."""

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(len(texts), dtype=np.float32)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return np.array(list(SCORES.values()), np.float32)[: len(texts)]


def report_by_hand(run_depth: int = 100) -> EvalReport:
    """Return the report of the benchmark: q:de ranks de:0, en:1, de:1, en:0; q:en ranks en:0, en:1, de:1, de:0."""
    return evaluate_benchmark(GivenScores(), BENCHMARK, EvaluateConfig(run_depth=run_depth))


def report_with_texts(texts: Sequence[str]) -> EvalReport:
    """Return a report in which the questions, passages and ids are given texts."""
    ids = [f"{number}{''.join(text.split())[:300]}" for number, text in enumerate(texts)]
    benchmark = replace(
        BENCHMARK,
        queries=[Query(name, "en", text) for name, text in zip(ids, texts, strict=True)],
        passages=[Passage(name, "en", text) for name, text in sorted(zip(ids, texts, strict=True))],
        judgements={name: {name: 1} for name in ids},
    )
    vectors = np.eye(len(texts), dtype=np.float32)

    class Unit:
        def queries(self, _: Sequence[str]) -> np.ndarray:
            return vectors

        passages = queries

    return evaluate_benchmark(Unit(), benchmark, EvaluateConfig())
