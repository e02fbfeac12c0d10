"""The dev set, on which trials are evaluated while a search runs.

Ray Train's controller imports this module, so it loads torch and the evaluator only when a function is called.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbt_ray.config import RunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import ConfigError
from hbt_ray.search.config import DevConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def dev_set_metrics(encoder: SentenceTransformer, config: RunConfig, *, dev: DevConfig, store: str) -> dict[str, float]:
    """Return an encoder's metrics on the dev set: with `dev` and `store` bound, an `EvalFn` of a training."""
    return dev_metrics(encoder, dev_set(dev, store, config), dev, config)


def untrained_metrics(
    config: RunConfig, initial_model: str, dev: DevConfig, store: str, threads: int
) -> dict[str, float]:
    """Return the metrics of a run's encoder before training on the dev set, with `threads` torch threads."""
    import torch

    from hbt_ray.models.encoder import default_device, load_for_training

    torch.set_num_threads(threads)
    encoder = load_for_training(config.model, config.text, initial_model, device=default_device(), seed=config.seed)
    return dev_set_metrics(encoder.eval(), config, dev=dev, store=store)


def dev_set(dev: DevConfig, store: str | Path, config: RunConfig) -> Benchmark:
    """Return the named benchmark, or the store's held-out items. Read once in a process, for all of its trials.

    Raises:
        ConfigError: nothing is held out.
        CorpusError: the benchmark cannot be read.
    """
    if dev.benchmarks:
        [(name, folder)] = dev.benchmarks.items()
        return _read_benchmark(name, folder, config.evaluate.split, config.evaluate.with_paragraph)
    return _held_out_items(str(store), config.languages, dev.items)


def check_objectives(objectives: Iterable[str], benchmark: Benchmark) -> None:
    """Check that a dev set has every objective. Which metrics it has is decided by its judgements, not by vectors.

    Raises:
        ConfigError: it lacks one.
    """
    from hbt_ray.evaluation.retrieval_metrics import compute_retrieval_metrics
    from hbt_ray.retrieval.passage_index import PassageIndex
    from hbt_ray.retrieval.passage_shard import PassageIndexShard

    vectors = np.linspace(0, 1, len(benchmark.passages), dtype=np.float32)[:, None]
    index = PassageIndex.of(PassageIndexShard(vectors))
    metrics = compute_retrieval_metrics(benchmark, np.ones((len(benchmark.queries), 1), np.float32), index).metrics
    names = [name.removeprefix(f"{benchmark.name}/") for name in metrics]
    missing = [objective for objective in objectives if objective not in names]
    if missing:
        by_setting: dict[str, list[str]] = {}
        for setting, metric, *part in (name.split("/") for name in names):
            by_setting.setdefault(setting, []).extend([] if part else [metric])
        existing = ", ".join(f"{setting}/<{', '.join(metrics)}>" for setting, metrics in by_setting.items())
        raise ConfigError(
            f"the dev set {benchmark.name} has no {' or '.join(missing)}; write only objectives that it has: {existing}"
        )


def dev_metrics(
    encoder: SentenceTransformer, benchmark: Benchmark, dev: DevConfig, config: RunConfig
) -> dict[str, float]:
    """Return an encoder's metrics on a `dev_set`, of which a benchmark is evaluated as the run's benchmarks are."""
    from hbt_ray.evaluation.evaluator import retrieval_metrics_of
    from hbt_ray.models.precision import resolve_bf16
    from hbt_ray.models.text_embedder import TextEmbedder, TokenIdEmbedder

    bf16 = resolve_bf16(config.evaluate.precision, encoder.device)
    # The texts of held-out items are token ids of the store, which are truncated.
    embedder, window_chars = (TextEmbedder, config.evaluate.window_chars) if dev.benchmarks else (TokenIdEmbedder, None)
    return retrieval_metrics_of(
        embedder(encoder, bf16=bf16, dimensions=config.evaluate.dimensions), benchmark, window_chars
    )


@functools.lru_cache(maxsize=2)
def _read_benchmark(name: str, folder: str | None, split: str | None, with_paragraph: bool) -> Benchmark:
    from hbt_ray.data.benchmarks import ReadOptions, load_benchmark

    return load_benchmark(name, folder, ReadOptions(with_paragraph, split))  # the split that is not trained on


@functools.lru_cache(maxsize=2)
def _held_out_items(store: str, languages: tuple[str, ...] | None, items: int) -> Benchmark:
    from hbt_ray.evaluation.validation_benchmark import build_validation_benchmark

    return build_validation_benchmark(TokenStore.open(store), languages, items)
