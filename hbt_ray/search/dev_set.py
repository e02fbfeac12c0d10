"""What trials are measured on while a search goes on."""

from __future__ import annotations

import functools
from pathlib import Path

from sentence_transformers import SentenceTransformer

from hbt_ray.config import RunConfig
from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.types import Benchmark
from hbt_ray.evaluation.evaluator import retrieval_metrics_of
from hbt_ray.evaluation.validation_benchmark import build_validation_benchmark
from hbt_ray.models.precision import resolve_bf16
from hbt_ray.models.text_embedder import TextEmbedder, TokenIdEmbedder
from hbt_ray.search.config import DevConfig


def dev_set(dev: DevConfig, store: str | Path, config: RunConfig) -> Benchmark:
    """The named benchmark, or the store's held-out items. Read once in a process, whatever trials it serves.

    Raises:
        ConfigError: nothing is held out.
        CorpusError: the benchmark cannot be read.
    """
    if dev.benchmarks:
        [(name, place)] = dev.benchmarks.items()
        return _read(name, place)
    return _held_out(str(store), config.languages, dev.items)


def dev_metrics(
    encoder: SentenceTransformer, benchmark: Benchmark, dev: DevConfig, config: RunConfig
) -> dict[str, float]:
    """An encoder's metrics on a `dev_set`."""
    bf16 = resolve_bf16(config.evaluate.precision, encoder.device)
    kind = TextEmbedder if dev.benchmarks else TokenIdEmbedder
    return retrieval_metrics_of(kind(encoder, bf16=bf16, dimensions=config.evaluate.dimensions), benchmark)


_read = functools.lru_cache(maxsize=2)(load_benchmark)


@functools.lru_cache(maxsize=2)
def _held_out(store: str, languages: tuple[str, ...] | None, items: int) -> Benchmark:
    return build_validation_benchmark(TokenStore.open(store), languages, items)
