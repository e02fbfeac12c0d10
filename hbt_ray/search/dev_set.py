"""The dev set, on which trials are evaluated while a search runs."""

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
    """Return the named benchmark, or the store's held-out items. Read once in a process, for all of its trials.

    Raises:
        ConfigError: nothing is held out.
        CorpusError: the benchmark cannot be read.
    """
    if dev.benchmarks:
        [(name, folder)] = dev.benchmarks.items()
        return _read_benchmark(name, folder)
    return _held_out_items(str(store), config.languages, dev.items)


def dev_metrics(
    encoder: SentenceTransformer, benchmark: Benchmark, dev: DevConfig, config: RunConfig
) -> dict[str, float]:
    """Return an encoder's metrics on a `dev_set`."""
    bf16 = resolve_bf16(config.evaluate.precision, encoder.device)
    # The texts of held-out items are token ids of the store.
    embedder = TextEmbedder if dev.benchmarks else TokenIdEmbedder
    return retrieval_metrics_of(embedder(encoder, bf16=bf16, dimensions=config.evaluate.dimensions), benchmark)


_read_benchmark = functools.lru_cache(maxsize=2)(load_benchmark)


@functools.lru_cache(maxsize=2)
def _held_out_items(store: str, languages: tuple[str, ...] | None, items: int) -> Benchmark:
    return build_validation_benchmark(TokenStore.open(store), languages, items)
