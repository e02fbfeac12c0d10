"""One rank's batches, built ahead of the training by a Ray Data task, in the sampler's order."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import ray.data

from hbt_ray.data.token_store import TokenStore
from hbt_ray.training.task import BatchT, TrainingTask
from hbt_ray.utils.activity import Phase, begin_step, enter_phase
from hbt_ray.utils.arrow import dataclass_from_arrow, dataclass_to_arrow

BLOCK_BYTES = 256 * 1024  # built before they are sent: small, so that the first batch arrives soon
BATCHES_PER_BLOCK = 8  # sent together, because the training process pays for each block that it receives
STOP_CHECK_S = 1.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    """An item that the reading thread passes on."""

    value: T


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the items, by an error or without one."""

    error: BaseException | None = None


def feed(
    task: TrainingTask[BatchT], store_folder: Path, *, rank: int, num_ranks: int, first_step: int, last_step: int
) -> Iterator[BatchT]:
    """Start to read this rank's slices of the sampler's batches [first_step, last_step); yield them, in order.

    One Ray task builds and streams them, a few blocks ahead. It requests no CPU, so it starts even if the training
    workers hold all CPUs. If its node is lost, Ray runs it again from `first_step`.

    Raises:
        TimeoutError: no batch arrived within `collective_timeout_s`.
    """

    def build(span: pa.Table) -> Iterator[pa.Table]:
        store = TokenStore.open(store_folder)
        batches = task.batches(store, range(span["first"][0].as_py(), span["last"][0].as_py()), rank, num_ranks)
        while block := list(itertools.islice(batches, BATCHES_PER_BLOCK)):
            yield pa.concat_tables(map(dataclass_to_arrow, block))

    if first_step >= last_step:
        return iter(())
    # `from_items` holds its rows itself; other sources would start a task that waits for a whole CPU.
    dataset = ray.data.from_items([{"first": first_step, "last": last_step}]).map_batches(
        build, batch_format="pyarrow", batch_size=None, num_cpus=0
    )
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.target_max_block_size = BLOCK_BYTES
    logger.info("rank %d of %d reads batches %d to %d", rank, num_ranks, first_step, last_step - 1)
    blocks = iterate_within(
        dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1),
        task.train.collective_timeout_s,
        "a block of batches",
    )
    return _batches_of(blocks, task, first_step)


def _batches_of(blocks: Iterable[pa.Table], task: TrainingTask[BatchT], number: int) -> Iterator[BatchT]:
    """Yield the batches of blocks, of which the first has a number, and record the step and phase of this rank."""
    batches_per_step = task.train.gradient_accumulation
    begin_step(number // batches_per_step + 1)
    enter_phase(Phase.DATA)
    for table in blocks:
        for row in range(table.num_rows):
            batch = dataclass_from_arrow(table.slice(row, 1), task.batch_type)
            enter_phase(Phase.COMPUTE)
            yield batch
            number += 1
            begin_step(number // batches_per_step + 1)
            enter_phase(Phase.DATA)


def iterate_within(items: Iterable[T], timeout_s: float, description: str) -> Iterator[T]:
    """Start a thread that reads an iterable that may block, one item ahead; return an iterator over the items.

    Args:
        items: the iterable.
        timeout_s: bound of the wait for one item.
        description: names an item in the message.

    Raises:
        TimeoutError: the next item did not arrive within `timeout_s` seconds; and what the iterable raises.
    """
    received: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: _Item[T] | _End) -> None:
        while not stopped.is_set():
            try:
                received.put(item, timeout=STOP_CHECK_S)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(_Item(item))
                if stopped.is_set():
                    return
        except BaseException as error:
            put(_End(error))
        else:
            put(_End())

    def receive() -> Iterator[T]:
        try:
            while True:
                try:
                    item = received.get(timeout=timeout_s)
                except queue.Empty:
                    raise TimeoutError(f"{description} did not arrive within {timeout_s:g} s") from None
                if isinstance(item, _Item):
                    yield item.value
                elif item.error is None:
                    return
                else:
                    raise item.error
        finally:
            stopped.set()

    threading.Thread(target=read, name="data feed", daemon=True).start()
    iterator = receive()
    weakref.finalize(iterator, stopped.set)  # an iterator that was never used does not reach its `finally`
    return iterator
