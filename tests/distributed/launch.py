"""Processes that train as ranks of one gloo group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.helpers.forked import forked_process
from tests.helpers.ports import free_port


def run_ranks(main: Callable[[int, int, int, str], None], num_ranks: int, folder: Path) -> None:
    """Run `main(rank, num_ranks, port, folder)` in `num_ranks` processes and check that each succeeds.

    Args:
        main: runs in each process.
        num_ranks: their number.
        folder: passed to `main` as a string.
    """
    port = free_port()
    ranks = [forked_process(main, rank, num_ranks, port, str(folder)) for rank in range(num_ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    for process in ranks:
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * num_ranks
