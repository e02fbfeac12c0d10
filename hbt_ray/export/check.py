"""What an exported file changes: the largest difference of vectors, and mAP by language."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from hbt_ray.config import EvaluateConfig
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.evaluator import evaluate_benchmark
from hbt_ray.export.conversion import with_exported
from hbt_ray.models.text_embedder import TextEmbedder

_MAX_TEXTS = 500  # whose vectors are compared
_SENTENCES = (
    "Where is the library?",
    "Die Bibliothek liegt neben dem Bahnhof.",
    "La bibliothèque ouvre à neuf heures et ferme à dix-huit heures, sauf le dimanche.",
    "图书馆在哪里？",
    "المكتبة بجانب المحطة.",
    "पुस्तकालय कहाँ है?",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file, compared with the encoder that it was made of."""

    file: Path
    megabytes: float
    max_difference: float  # of a value of a vector
    min_cosine: float  # of a text's two vectors
    map_by_language: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """benchmark -> language, and "all" -> mAP within the language, of the encoder and of the file."""


def sample_texts(benchmarks: Sequence[Benchmark]) -> list[str]:
    """Return passages of some benchmarks, or sentences in several languages if there is none."""
    texts = [passage.text for benchmark in benchmarks for passage in benchmark.passages]
    return texts[:: max(1, len(texts) // _MAX_TEXTS)][:_MAX_TEXTS] or list(_SENTENCES)


def check_export(
    encoder: SentenceTransformer, file: Path, texts: Sequence[str], benchmarks: Sequence[Benchmark]
) -> Exported:
    """Compare an exported file with its encoder.

    Args:
        encoder: on the CPU.
        file: from `export_encoder`.
        texts: whose vectors are compared.
        benchmarks: on which both are evaluated.
    """
    original, exported = TextEmbedder(encoder), TextEmbedder(with_exported(encoder, file))
    one, other = original.passages(texts), exported.passages(texts)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(axis=1) / np.maximum(norms, 1e-12)
    size = sum(os.path.getsize(part) for part in {file, file.with_suffix(".bin")} if part.exists())
    by_language = {benchmark.name: _compare(original, exported, benchmark) for benchmark in benchmarks}
    return Exported(file, size / 1e6, float(np.abs(one - other).max()), float(cosine.min()), by_language)


def _compare(original: TextEmbedder, exported: TextEmbedder, benchmark: Benchmark) -> dict[str, tuple[float, float]]:
    settings = EvaluateConfig(figures=False)
    reports = [evaluate_benchmark(embedder, benchmark, settings) for embedder in (original, exported)]
    one, other = (report.metrics for report in reports)
    name = reports[0].metric("mono", "map")
    found = {language: f"{name}/{language}" for language in reports[0].languages} | {"all": name}
    return {part: (one[full], other[full]) for part, full in found.items() if full in one}
