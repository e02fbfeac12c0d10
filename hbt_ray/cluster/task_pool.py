"""Running independent jobs as Ray tasks, a limited number at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest

KeyT = TypeVar("KeyT")


def run_tasks(
    jobs: Sequence[tuple[KeyT, Callable[..., None], tuple[object, ...]]], request: ResourceRequest, description: str
) -> Iterator[tuple[KeyT, float]]:
    """Run jobs as tasks, at most `request.max_concurrent` at a time.

    Args:
        jobs: (key, function, arguments) each.
        request: resources of each task, and how many run at a time.
        description: names a job in an error message.

    Yields:
        The key of each job that has ended, in the order of their ends, and the seconds it took.

    Raises:
        HbtError: a job raised it; ClusterError if Ray failed. The other jobs are cancelled.
    """
    options = {"num_cpus": request.threads, "num_gpus": request.resources.get("GPU", 0), "max_retries": 2}
    waiting = list(jobs)
    running: dict[ray.ObjectRef, tuple[KeyT, float]] = {}
    try:
        with unwrap_ray_errors(description):
            while waiting or running:
                while waiting and len(running) < request.max_concurrent:
                    key, function, arguments = waiting.pop(0)
                    running[ray.remote(**options)(function).remote(*arguments)] = (key, time.monotonic())
                [ended], _ = ray.wait(list(running), num_returns=1)
                key, began_s = running.pop(ended)
                ray.get(ended)
                yield key, time.monotonic() - began_s
    finally:
        for task in running:
            ray.cancel(task, force=True)
