"""Peak memory of processes while a block runs, without the object store, which all processes of a cluster map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import ray

_SAMPLE_EVERY_S = 0.1


@contextmanager
def peak_mib(processes: Callable[[], Sequence[psutil.Process]]) -> Iterator[list[float]]:
    """Sample the memory of processes while the block runs: a list with the peak MiB of the largest."""
    peak, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_EVERY_S):
            peak[0] = max(peak[0], *map(private_mib, processes()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def this_process() -> list[psutil.Process]:
    """Return this process, which is the driver."""
    return [psutil.Process()]


def all_processes() -> list[psutil.Process]:
    """Return this process, its descendants and, if Ray is initialized, the workers of its cluster on this node."""
    current = psutil.Process()
    processes = [current, *current.children(recursive=True)]
    if ray.is_initialized():
        sockets = {node["RayletSocketName"] for node in ray.nodes()}
        for raylet in psutil.process_iter(["name", "cmdline"]):
            if raylet.info["name"] == "raylet" and any(
                word.endswith(socket) for word in raylet.info["cmdline"] or () for socket in sockets
            ):
                processes += raylet.children(recursive=True)
    return processes


def private_mib(process: psutil.Process) -> float:
    """Return the memory of a process now; 0 if it has ended."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0
    return float(memory.rss - memory.shared) / 2**20
