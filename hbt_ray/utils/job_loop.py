"""The loop of independent jobs: a limited number run at a time, in whatever runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from hbt_ray.utils.progress import stage

KeyT = TypeVar("KeyT")
HandleT = TypeVar("HandleT")

# A key, and a function with its arguments.
Job = tuple[KeyT, Callable[..., None], tuple[object, ...]]


def run_jobs(
    jobs: Sequence[Job[KeyT]],
    running: dict[HandleT, KeyT],
    start: Callable[[Job[KeyT]], HandleT],
    wait: Callable[[], Iterable[HandleT]],
    *,
    description: str,
    max_concurrent: int,
    label: Callable[[KeyT], str] = str,
) -> Iterator[tuple[KeyT, float]]:
    """Start jobs, at most `max_concurrent` at a time, and wait for them in a stage that names those that run.

    Args:
        jobs: to run, in this order.
        running: what runs; filled and emptied here, so that the caller can end what is left after an error.
        start: starts a job and returns its handle.
        wait: waits a while, and returns the handles of jobs that have ended; raises what a job raised.
        description: of the work, such as "pretraining".
        max_concurrent: how many run at a time.
        label: names a job, given its key.

    Yields:
        The key of each job that has ended, in the order of their ends, and the seconds it took.
    """
    waiting = list(jobs)
    began_s: dict[HandleT, float] = {}
    with stage(description, len(jobs)) as overall:
        # The first of several that run side by side says little of the others: the shortest job ends first.
        overall.estimate_after = max_concurrent
        while waiting or running:
            while waiting and len(running) < max_concurrent:
                job = waiting.pop(0)
                handle = start(job)
                running[handle], began_s[handle] = job[0], time.monotonic()
            overall.detail = ", ".join(map(label, running.values()))
            if waiting:
                overall.detail += f"; next {label(waiting[0][0])}"
            for handle in wait():
                overall.advance()
                yield running.pop(handle), time.monotonic() - began_s.pop(handle)
        overall.detail = ""  # which the line of the ended stage would show: the job that was the last to run
