"""A small study whose encoders are noisy tables of vectors, and its reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.manifest import Group, ShardInfo, Source, StoreManifest
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.evaluation.report import write_report
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.results import StudyResults
from tests.unit.evaluation.test_evaluator import TableEmbedder, parallel_benchmark, topic_embedder

LANGUAGES = ("de", "en", "sw")
SETTINGS = {
    "name": "small",
    "title": "A small study",
    "question": "Which is better?",
    "reference": "hybrid",
    "methods": {"untrained": {"trained": False}, "hybrid": {}, "x-y": {"settings": {"mix.strategy": "x-y"}}},
    "measures": ["tiny/multi/map", "tiny/mono/map/low-resource", "tiny/gap/map", "drop/tiny/multi/map"],
    "chapters": ["levels", "languages", "robustness", "alignment", "gap"],
    "licences": {"numbers": "made here"},
    "limits": ["It is made up."],
    "run": {"evaluate": {"benchmarks": {"tiny": "somewhere"}, "perturbations": ["case"]}},
}
MANIFEST = StoreManifest(
    *("text", "uint16", {"numbers": Source((Group(LANGUAGES, 0),), {"train": (ShardInfo("f", 7, ((0, 7),), ""),)})}),
    {"numbers": {"items_dropped_for_evaluation": ["1", "2"], "items_dropped_as_repeated": []}},
)
_NOISE: Mapping[str, float] = {"untrained": 1.2, "hybrid": 0.4, "x-y": 0.8}


def grouped_benchmark() -> Benchmark:
    """Return a parallel benchmark whose queries are grouped with their translations."""
    plain = parallel_benchmark(20, LANGUAGES)
    queries = [type(q)(q.query_id, q.language, q.text, q.text.split(":")[2]) for q in plain.queries]
    return Benchmark("tiny", queries, plain.passages, plain.judgements)


def write_reports(folder: Path, benchmark: Benchmark) -> StudyResults:
    """Evaluate the study's encoders on the benchmark and on perturbed queries, whose vectors are noisier."""
    results = StudyResults(StudyConfig.model_validate(SETTINGS), folder)
    for (method, seed), experiment in results.experiments.items():
        for name, factor in (("tiny", 1.0), ("tiny-case", 1.5)):
            table = topic_embedder(benchmark, noise=_NOISE[method], bias=0.4)
            rng = np.random.default_rng(seed)
            moved = {
                text: vector + (factor * 0.3 * rng.standard_normal(len(vector)) if text.startswith("q:") else 0)
                for text, vector in table.vectors.items()
            }
            perturbed = Benchmark(name, benchmark.queries, benchmark.passages, benchmark.judgements)
            report = evaluate_benchmark(TableEmbedder(moved), perturbed, EvaluateConfig())
            write_report(report, experiment.run_dir(folder).evaluations / name, settings=EvaluateConfig(figures=False))
    return results
