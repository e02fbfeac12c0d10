"""Speed of the data feed: against training on its batches, and with a large store against a small one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hbt_ray.bench.fixtures import VOCABULARY, TextTokens, bench_encoder, write_synthetic_store
from hbt_ray.bench.registry import BenchSettings
from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.timing import Contestant, RoundFunction, compare_alternating, scratch_folder
from hbt_ray.config import MixConfig, ModelConfig, TextConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling import HybridStepSampler, rank_slice
from hbt_ray.sampling.collate import build_batch
from hbt_ray.utils.arrow import dataclass_to_arrow

PAIRS = 32  # per batch of a rank
BATCHES_PER_TABLE = 8  # as in the feed of a training run
TOKENS = TextTokens(40, 80)
SHORT_TOKENS = TextTokens(4, 8)


def bench_feed(settings: BenchSettings) -> BenchResult:
    """Compare the feed's batches per second with those that training consumes, from the same store and sampler.

    Detail `collator_batches_per_s`: batches of sentence-transformers' DataLoader and collator from the same texts.
    """
    from hbt_ray.models.encoder import load_pretrained

    items, batches, steps = (2_000, 80, 2) if settings.quick else (100_000, 1_600, 4)
    with scratch_folder(settings.out / "feed") as scratch:
        encoder = bench_encoder(settings.model, scratch, quick=settings.quick)
        vocabulary = VOCABULARY if settings.model is None else len(load_pretrained(encoder).tokenizer)
        store = write_synthetic_store(scratch / "store", items, TOKENS, vocabulary=vocabulary)
        feed = Contestant(make_feed_round, (store, batches))
        trainer = Contestant(make_training_round, (store, encoder, steps))
        collator = Contestant(make_collator_round, (store, encoder, min(batches, 64)))
        result = compare_alternating(feed, trainer, unit="batches/s", rounds=settings.rounds)
        with_collator = compare_alternating(feed, collator, unit="batches/s", rounds=min(settings.rounds, 3))
    details = {
        "peer_is": "training steps on the same batches, one process",
        "pairs": PAIRS,
        "collator_batches_per_s": round(with_collator.baseline, 1),
        "times_the_collator": round(with_collator.ratio, 1),
    }
    return replace(result, details=details | dict(result.details))


def bench_feed_of_large_store(settings: BenchSettings) -> BenchResult:
    """Compare batches per second from a store of 40 million items with those from one of 10,000.

    Both stores are really written to this disk, with short texts, and deleted afterwards; batches have the same shape.
    """
    few, many, batches = (1_000, 200_000, 200) if settings.quick else (10_000, 40_000_000, 4_000)
    with scratch_folder(settings.out / "feed-40m") as scratch:
        stores = {items: write_synthetic_store(scratch / str(items), items, SHORT_TOKENS) for items in (few, many)}
        first_ms = {items: round(1e3 * _first_batch_s(store), 1) for items, store in stores.items()}
        return compare_alternating(
            Contestant(make_feed_round, (stores[many], batches)),
            Contestant(make_feed_round, (stores[few], batches)),
            unit="batches/s",
            rounds=max(settings.rounds, 1 if settings.quick else 7),
            details={
                "peer_is": f"a store of {few:,} items",
                "items": many,
                "first_batch_ms": first_ms[many],
                "peer_first_batch_ms": first_ms[few],
            },
        )


def make_feed_round(store_folder: Path, batches: int) -> RoundFunction:
    """Return a function that samples and builds the next `batches` batches, as the feed's process does."""
    build_next = make_batch_builder(TokenStore.open(store_folder), batches)

    def run_round() -> float:
        build_next()
        return batches

    return run_round


def make_batch_builder(store: TokenStore, batches: int, *, rank: int = 0, num_ranks: int = 1) -> Callable[[], None]:
    """Return a function that builds the next `batches` batches of a rank, PAIRS pairs each, and their Arrow tables."""
    sampler = make_sampler(store, num_ranks)
    rank_pairs = rank_slice(sampler.global_batch_size, num_ranks, rank)
    steps = count()

    def build_next() -> None:
        for _ in range(0, batches, BATCHES_PER_TABLE):
            built = [build_batch(sampler.batch(next(steps), rank_pairs), store) for _ in range(BATCHES_PER_TABLE)]
            pa.concat_tables(map(dataclass_to_arrow, built))

    return build_next


def make_sampler(store: TokenStore, num_ranks: int = 1) -> HybridStepSampler:
    """Return the sampler of the default mix, with PAIRS pairs for each rank."""
    return HybridStepSampler(store.manifest, MixConfig(), seed=0, global_batch_pairs=PAIRS * num_ranks)


def make_training_round(store_folder: Path, encoder: str, steps: int) -> RoundFunction:
    """Return a function that trains the next `steps` steps, on batches built in advance."""
    from hbt_ray.models.encoder import default_device, load_for_training
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

    store = TokenStore.open(store_folder)
    sampler = make_sampler(store)
    model = load_for_training(ModelConfig(), TextConfig(), encoder, device=default_device())
    trainer = ContrastiveTrainer(model, TrainConfig(), seed=0)
    batches = [build_batch(sampler.batch(step), store) for step in range(4 * steps)]
    step_numbers = count()

    def run_round() -> float:
        for number in [next(step_numbers) for _ in range(steps)]:
            trainer.step(number, [batches[number % len(batches)]])
        return steps

    return run_round


def make_collator_round(store_folder: Path, encoder: str, batches: int) -> RoundFunction:
    """Return a function that takes `batches` batches from sentence-transformers' collator, as its trainer does."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from torch.utils.data import DataLoader

    from hbt_ray.models.encoder import load_pretrained

    store = TokenStore.open(store_folder)
    model = load_pretrained(encoder)
    built = [build_batch(make_sampler(store).batch(step), store) for step in range(batches)]
    queries = [_decode(model.tokenizer, batch.query_ids, batch.query_lengths) for batch in built]
    passages = [_decode(model.tokenizer, batch.passage_ids, batch.passage_lengths) for batch in built]
    pairs = Dataset.from_dict({"query": list(chain(*queries)), "positive": list(chain(*passages))})
    loader: Any = DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_size=PAIRS,
        shuffle=True,
        collate_fn=SentenceTransformerDataCollator(model.preprocess),
    )

    def run_round() -> float:
        return sum(1 for _ in loader)

    return run_round


def _decode(tokenizer: Any, ids: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Return the texts of concatenated token sequences: ids (T,), lengths (N,) -> N texts."""
    ends = lengths.cumsum()
    sequences = [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
    return [" ".join(tokenizer.convert_ids_to_tokens(sequence)) for sequence in sequences]


def _first_batch_s(store_folder: Path) -> float:
    """Return the seconds from a store on disk to the first batch: manifest, sampler, and the shards it reads."""
    began_s = time.perf_counter()
    store = TokenStore.open(store_folder)
    build_batch(make_sampler(store).batch(0), store)
    return time.perf_counter() - began_s
