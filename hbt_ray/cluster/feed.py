"""The batches of one rank, built beside it by Ray Data, in the order of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import ray.data

from hbt_ray.batches import build_batch, from_arrow, to_arrow
from hbt_ray.config import RunConfig
from hbt_ray.plan import HybridPlan
from hbt_ray.records import Batch
from hbt_ray.store import TokenStore

STEPS_PER_ROW = 64  # of the plan, that one row of the feed's input stands for
BLOCK_BYTES = 256 * 1024  # built before they are handed on: small, so that the first batch comes soon
BATCHES_AHEAD = 4


def make_plan(config: RunConfig, store: TokenStore) -> HybridPlan:
    """The training order of a configuration over its store."""
    return HybridPlan(
        store.manifest,
        config.mix,
        seed=config.seed,
        global_batch_pairs=config.train.global_batch_pairs,
        languages=config.languages,
    )


def feed(
    config: RunConfig, store_folder: Path, *, rank: int, num_ranks: int, first_step: int, last_step: int
) -> Iterator[Batch]:
    """This rank's slices of the plan's batches [first_step, last_step), in order.

    They are built by one task that streams them. It asks for no CPU, so it starts where the training workers
    hold every CPU there is.
    """

    def build(table: pa.Table) -> Iterator[pa.Table]:
        store = TokenStore.open(store_folder)
        plan = make_plan(config, store)
        for start, end in zip(table.column("start").to_pylist(), table.column("end").to_pylist(), strict=True):
            for step in range(start, end):
                yield to_arrow(build_batch(plan.batch(step), store, rank, num_ranks))

    spans = [
        {"start": start, "end": min(start + STEPS_PER_ROW, last_step)}
        for start in range(first_step, last_step, STEPS_PER_ROW)
    ]
    if not spans:
        return
    dataset = ray.data.from_items(spans, override_num_blocks=1).map_batches(
        build, batch_format="pyarrow", batch_size=None, num_cpus=0
    )
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.target_max_block_size = BLOCK_BYTES
    for table in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=BATCHES_AHEAD):
        yield from_arrow(table)
