"""How fast the feed is: against the training that takes its batches, and with a large corpus against a small one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from hbt_ray.batches import build_batch, to_arrow
from hbt_ray.bench.figure import Figure
from hbt_ray.bench.settings import BenchSettings
from hbt_ray.bench.synthetic import write_synthetic_store
from hbt_ray.bench.turns import Side, in_turns
from hbt_ray.config import MixConfig
from hbt_ray.plan import HybridPlan
from hbt_ray.store import TokenStore

PAIRS = 32  # per batch
CHUNK_PAIRS = 16
BATCHES_TOGETHER = 8  # are handed on as one table, as in the feed of a training


def feed_40m(settings: BenchSettings) -> Figure:
    """Batches a second from a store of 40 million items against one of 10,000, batches of the same shape.

    Both stores are real, on this disk, with short texts; both are deleted afterwards.
    """
    few, many, batches = (2_000, 100_000, 200) if settings.quick else (10_000, 40_000_000, 4_000)
    folder = settings.out / "feed-stores"
    try:
        opened = {}
        for items in (few, many):
            store = write_synthetic_store(
                folder / str(items), items, question_tokens=QUESTION_TOKENS_SHORT, passage_tokens=8
            )
        return in_turns(
            Side(feeding, (folder / str(many), batches)),
            Side(feeding, (folder / str(few), batches)),
            unit="batches/s",
            rounds=settings.rounds,
            details={"peer_is": f"a store of {few:,} items", "items": many},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def feeding(store_folder: Path, batches: int) -> Callable[[], float]:
    """Plans and builds the next `batches` batches, a round; as the feed's process does."""
    store = TokenStore.open(store_folder)
    plan = HybridPlan(store.manifest, MixConfig(), seed=0, global_batch_pairs=PAIRS)
    steps = count()

    def work() -> float:
        for _ in range(0, batches, BATCHES_TOGETHER):
            built = [build_batch(plan.batch(next(steps)), store, 0, 1, CHUNK_PAIRS) for _ in range(BATCHES_TOGETHER)]
            pa.concat_tables(map(to_arrow, built))
        return batches

    return work
