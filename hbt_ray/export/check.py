"""What an exported file changes: the largest difference of vectors, and mAP by language."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
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


def check_exports(
    encoder: SentenceTransformer, files: Iterable[Path], texts: Sequence[str], benchmarks: Sequence[Benchmark]
) -> list[Exported]:
    """Compare exported files with their encoder, which is evaluated once.

    Args:
        encoder: on the CPU.
        files: from `export_encoder`.
        texts: whose vectors are compared.
        benchmarks: on which all are evaluated.
    """
    original = TextEmbedder(encoder)
    vectors = original.passages(texts)
    before = _map_by_language(original, benchmarks)
    found = []
    for file in files:
        exported = TextEmbedder(with_exported(encoder, file))
        other = exported.passages(texts)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other, axis=1)
        cosine = (vectors * other).sum(axis=1) / np.maximum(norms, 1e-12)
        size = sum(os.path.getsize(part) for part in {file, file.with_suffix(".bin")} if part.exists())
        after = _map_by_language(exported, benchmarks)
        changes = {
            name: {part: (value, after[name][part]) for part, value in by_language.items()}
            for name, by_language in before.items()
        }
        found.append(Exported(file, size / 1e6, float(np.abs(vectors - other).max()), float(cosine.min()), changes))
    return found


def _map_by_language(embedder: TextEmbedder, benchmarks: Sequence[Benchmark]) -> dict[str, dict[str, float]]:
    """Return benchmark -> language, and "all" -> mAP within the language."""
    found = {}
    for benchmark in benchmarks:
        report = evaluate_benchmark(embedder, benchmark, EvaluateConfig(figures=False))
        name = report.metric("mono", "map")
        names = {language: f"{name}/{language}" for language in report.languages} | {"all": name}
        found[benchmark.name] = {part: report.metrics[full] for part, full in names.items() if full in report.metrics}
    return found
