"""Prepare a token store from corpora, mapped over the cluster with Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.runtime import connect
from hbt_ray.config import PrepareInputs
from hbt_ray.data.engine import Engine, Result, RowTables, Shared
from hbt_ray.data.store_maker import OnStage, list_source, log_stage, make_store
from hbt_ray.utils.interruption import interrupt_on_sigterm, say_when_stopped
from hbt_ray.utils.limits import under_these_limits


def prepare(
    inputs: PrepareInputs,
    stores: Path,
    *,
    blocks: int | None = None,
    verify: bool = False,
    on_stage: OnStage = log_stage,
) -> Path:
    """Return the store of some inputs; it is made if it does not exist yet, and made again if it is damaged.

    It contains, with the shards and the manifest, the tokenizer and `rejects.jsonl`.

    Args:
        inputs: corpora, settings and evaluation sets.
        stores: folder of stores. Each is named by its fingerprint, so runs share them.
        blocks: number of tasks that read the corpora; None: one for each shard of a corpus.
        verify: compare the checksums of a store that exists.
        on_stage: see `make_store`.

    Raises:
        ConfigError: the model cannot be trained, has no tokenizer, or takes shorter texts.
        CorpusError: a corpus or evaluation set cannot be read, or too many of its rows are rejected.
        StoreError: the store cannot be written; no part of it exists then.
        StorageError: the folder of stores cannot be written.
    """
    with say_when_stopped("the next call makes the store from its beginning"):
        source = list_source(inputs, stores)
        with source.new_folder(verify=verify) as unfinished, unwrap_ray_errors("preparing"):
            if unfinished is not None:
                connect()
                with interrupt_on_sigterm():  # entered after Ray has set a handler of its own
                    make_store(source, unfinished, RayData(blocks), on_stage)
    return source.folder


class RayTables(RowTables):
    """Tables as blocks of a Ray data set."""

    def __init__(self, dataset: ray.data.Dataset) -> None:
        self._dataset = dataset

    def map(self, function: Callable[[pa.Table], pa.Table]) -> RayTables:
        return RayTables(self._dataset.map_batches(function, batch_format="pyarrow", batch_size=None))

    def map_groups(self, column: str, function: Callable[[pa.Table], pa.Table], groups: int) -> RayTables:
        grouped = self._dataset.groupby(column, num_partitions=groups)
        return RayTables(grouped.map_groups(function, batch_format="pyarrow"))

    def compute(self) -> RayTables:
        return RayTables(self._dataset.materialize())

    def gather(self, function: Callable[[pa.Table], Result]) -> Result:
        def apply(*tables: pa.Table) -> Result:
            return function(pa.concat_tables(tables))

        result: Result = ray.get(ray.remote(apply).remote(*self._dataset.to_arrow_refs()))
        return result

    def count(self) -> int:
        return self._dataset.count()

    def __iter__(self) -> Iterator[pa.Table]:
        return iter(self._dataset.iter_batches(batch_format="pyarrow", batch_size=None))


class RayData(Engine):
    """Runs functions as tasks of the cluster.

    Args:
        blocks: number of tasks that read the corpora; None: one for each shard.
    """

    def __init__(self, blocks: int | None = None) -> None:
        self._blocks = blocks

    def read(self, shards: int, read: Callable[[Sequence[int]], Iterator[pa.Table]]) -> RayTables:
        @under_these_limits  # of a Ray that was started before this package, or before they were set, no task has them
        def read_batch(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
            return read(batch["shard"].tolist())

        numbers = ray.data.from_items(
            [{"shard": number} for number in range(shards)], override_num_blocks=self._blocks or shards
        )
        return RayTables(numbers.map_batches(read_batch, batch_size=None).materialize())

    def share(self, value: Shared) -> Callable[[], Shared]:
        reference = ray.put(value)
        return lambda: ray.get(reference)
