"""The batches of one rank, built beside it by Ray Data, in the order of the plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.collate import dataclass_from_arrow, dataclass_to_arrow
from hbt_ray.training.task import TrainingTask

BLOCK_BYTES = 256 * 1024  # built before they are handed on: small, so that the first batch comes soon
BATCHES_TOGETHER = 8  # are handed on at once: what a hand-over costs is taken from the training, not from the feed


def feed(
    job: TrainingTask, store_folder: Path, *, rank: int, num_ranks: int, first_step: int, last_step: int
) -> Iterator[Any]:
    """This rank's slices of the plan's batches [first_step, last_step), in order.

    One task builds and streams them, as far ahead as they are taken. It asks for no CPU, so it starts where the
    training workers hold every CPU there is. Should its node be lost, Ray runs it again from `first_step`.
    """

    def build(span: pa.Table) -> Iterator[pa.Table]:
        store = TokenStore.open(store_folder)
        built = job.batches(store, range(span["first"][0].as_py(), span["last"][0].as_py()), rank, num_ranks)
        while together := list(itertools.islice(built, BATCHES_TOGETHER)):
            yield pa.concat_tables(map(dataclass_to_arrow, together))

    if first_step >= last_step:
        return
    # `from_items` holds its rows itself; other sources would start a task that waits for a whole CPU.
    dataset = ray.data.from_items([{"first": first_step, "last": last_step}]).map_batches(
        build, batch_format="pyarrow", batch_size=None, num_cpus=0
    )
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.target_max_block_size = BLOCK_BYTES
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for row in range(table.num_rows):
            yield dataclass_from_arrow(table.slice(row, 1), job.batch_type)
