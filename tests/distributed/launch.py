"""Processes that train as ranks of gloo groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tests.helpers.forked import forked_process
from tests.helpers.ports import free_port


def run_ranks(main: Callable[[int, int, int, str], None], group_sizes: Iterable[int], folder: Path) -> None:
    """Run groups of processes at the same time, and check that each process succeeds.

    Args:
        main: is called in each process with its rank, the size of its group, the group's port and the folder.
        group_sizes: number of processes of each group.
        folder: passed to `main` as a string.
    """
    groups = [(size, free_port()) for size in group_sizes]
    ranks = [forked_process(main, rank, size, port, str(folder)) for size, port in groups for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    for process in ranks:
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * len(ranks)
