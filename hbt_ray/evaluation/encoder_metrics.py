"""An encoder's metrics on the benchmarks of a run.

Ray Train's controller imports this module, so it loads torch and the evaluator only when a function is called.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hbt_ray.config import RunConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


def benchmark_metrics(encoder: SentenceTransformer, config: RunConfig) -> dict[str, float]:
    """Evaluate an encoder on a run's benchmarks, in this process; no report is written.

    Returns:
        Full metric name, such as `xquad-r/mono/map`, -> value.

    Raises:
        CorpusError: a benchmark cannot be read.
        UserError: the vectors hold NaN.
    """
    from hbt_ray.evaluation.evaluator import evaluate_benchmark
    from hbt_ray.evaluation.run_evaluation import load_benchmarks
    from hbt_ray.models.precision import resolve_bf16
    from hbt_ray.models.text_embedder import TextEmbedder

    bf16 = resolve_bf16(config.evaluate.precision, encoder.device)
    embedder = TextEmbedder(encoder, bf16=bf16, dimensions=config.evaluate.dimensions)
    metrics: dict[str, float] = {}
    for benchmark in load_benchmarks(config.evaluate):
        report = evaluate_benchmark(embedder, benchmark, config.evaluate)
        for warning in report.warnings:
            logger.warning("%s: %s", benchmark.name, warning)
        metrics |= report.metrics
    return metrics
