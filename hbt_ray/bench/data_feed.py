"""How fast the feed is: against the training that takes its batches, and with a large corpus against a small one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import pyarrow as pa

from hbt_ray.bench.result import BenchResult
from hbt_ray.bench.scratch import scratch_folder
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.synthetic import VOCABULARY, TextTokens, write_synthetic_store
from hbt_ray.bench.timing import Contestant, compare_alternating
from hbt_ray.config import MixConfig, ModelConfig, TextConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling import HybridBatchSampler, rank_slice
from hbt_ray.sampling.collate import build_batch, dataclass_to_arrow

PAIRS = 32  # per batch of a rank
BATCHES_TOGETHER = 8  # are handed on as one table, as in the feed of a training
TOKENS = TextTokens(40, 80)
SHORT_TOKENS = TextTokens(4, 8)


def feed(settings: BenchSettings) -> BenchResult:
    """Batches a second that the feed makes alone, against those that training takes, of the same store and plan.

    With it, as `collator_batches_per_s`, what sentence-transformers' DataLoader and collator make of the same texts.
    """
    from hbt_ray.bench.encoder import encoder_to_measure
    from hbt_ray.models.encoder import load_pretrained

    items, batches, steps = (2_000, 80, 2) if settings.quick else (100_000, 1_600, 4)
    with scratch_folder(settings.out / "feed") as scratch:
        encoder = encoder_to_measure(settings.model, scratch, quick=settings.quick)
        vocabulary = VOCABULARY if settings.model is None else len(load_pretrained(encoder).tokenizer)
        store = write_synthetic_store(scratch / "store", items, TOKENS, vocabulary=vocabulary)
        feeds = Contestant(feeding, (store, batches))
        figure = compare_alternating(
            feeds, Contestant(training, (store, encoder, steps)), unit="batches/s", rounds=settings.rounds
        )
        collators = Contestant(collating, (store, encoder, min(batches, 64)))
        collated = compare_alternating(feeds, collators, unit="batches/s", rounds=min(settings.rounds, 3))
    told = {
        "peer_is": "training steps on the same batches, one process",
        "pairs": PAIRS,
        "collator_batches_per_s": round(collated.peer, 1),
        "times_the_collator": round(collated.ratio, 1),
    }
    return replace(figure, details=told | dict(figure.details))


def feed_40m(settings: BenchSettings) -> BenchResult:
    """Batches a second from a store of 40 million items against one of 10,000, batches of the same shape.

    Both stores are real, on this disk, with short texts; both are deleted afterwards.
    """
    few, many, batches = (1_000, 200_000, 200) if settings.quick else (10_000, 40_000_000, 4_000)
    with scratch_folder(settings.out / "feed-40m") as scratch:
        stores = {items: write_synthetic_store(scratch / str(items), items, SHORT_TOKENS) for items in (few, many)}
        first_ms = {items: round(1e3 * _first_batch_s(store), 1) for items, store in stores.items()}
        return compare_alternating(
            Contestant(feeding, (stores[many], batches)),
            Contestant(feeding, (stores[few], batches)),
            unit="batches/s",
            rounds=max(settings.rounds, 1 if settings.quick else 7),
            details={
                "peer_is": f"a store of {few:,} items",
                "items": many,
                "first_batch_ms": first_ms[many],
                "peer_first_batch_ms": first_ms[few],
            },
        )


def feeding(store_folder: Path, batches: int) -> Callable[[], float]:
    """Plans and builds the next `batches` batches a round, as the feed's process does."""
    store = TokenStore.open(store_folder)
    next_tables = feeder(store, batches)

    def work() -> float:
        next_tables()
        return batches

    return work


def feeder(store: TokenStore, batches: int, *, rank: int = 0, num_ranks: int = 1) -> Callable[[], None]:
    """What makes the next `batches` batches of a rank at each call, PAIRS pairs each, up to the table handed on."""
    plan = plan_of(store, num_ranks)
    mine = rank_slice(plan.global_batch_pairs, num_ranks, rank)
    steps = count()

    def make() -> None:
        for _ in range(0, batches, BATCHES_TOGETHER):
            built = [build_batch(plan.batch(next(steps), mine), store) for _ in range(BATCHES_TOGETHER)]
            pa.concat_tables(map(dataclass_to_arrow, built))

    return make


def plan_of(store: TokenStore, num_ranks: int = 1) -> HybridBatchSampler:
    return HybridBatchSampler(store.manifest, MixConfig(), seed=0, global_batch_pairs=PAIRS * num_ranks)


def training(store_folder: Path, encoder: str, steps: int) -> Callable[[], float]:
    """Takes the next `steps` steps of a training a round, on batches made beforehand."""

    from hbt_ray.models.encoder import default_device, load_for_training
    from hbt_ray.training.contrastive_trainer import ContrastiveTrainer

    device = default_device()
    store = TokenStore.open(store_folder)
    plan = plan_of(store)
    trainer = ContrastiveTrainer(
        load_for_training(ModelConfig(), TextConfig(), encoder, device=device), TrainConfig(), seed=0
    )
    numbers = count()

    def work() -> float:
        for number in [next(numbers) for _ in range(steps)]:
            trainer.step(number, [batches[number % len(batches)]])
        return steps

    batches = [build_batch(plan.batch(step), store) for step in range(4 * steps)]
    return work


def collating(store_folder: Path, encoder: str, batches: int) -> Callable[[], float]:
    """Takes the next `batches` batches a round from sentence-transformers' collator, as its trainer does."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from torch.utils.data import DataLoader

    from hbt_ray.models.encoder import load_pretrained

    store = TokenStore.open(store_folder)
    model = load_pretrained(encoder)
    built = [build_batch(plan_of(store).batch(step), store) for step in range(batches)]
    queries = [_words(model.tokenizer, one.query_ids, one.query_lengths) for one in built]
    passages = [_words(model.tokenizer, one.passage_ids, one.passage_lengths) for one in built]
    pairs = Dataset.from_dict({"query": list(chain(*queries)), "positive": list(chain(*passages))})
    loader: Any = DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_size=PAIRS,
        shuffle=True,
        collate_fn=SentenceTransformerDataCollator(model.preprocess),
    )

    def work() -> float:
        return sum(1 for _ in loader)

    return work


def _words(tokenizer: Any, ids: Any, lengths: Any) -> list[str]:
    """The texts of sequences that stand one after the other."""
    ends = lengths.cumsum()
    sequences = [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
    return [" ".join(tokenizer.convert_ids_to_tokens(sequence)) for sequence in sequences]


def _first_batch_s(store_folder: Path) -> float:
    """From a store on disk to the first batch: its manifest, the plan, and the shards that the batch reads."""
    began_s = time.perf_counter()
    store = TokenStore.open(store_folder)
    build_batch(plan_of(store).batch(0), store)
    return time.perf_counter() - began_s
