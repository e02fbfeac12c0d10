"""How many runs a cluster has room for at a time, and carrying them out so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import check_workers, share_of_each, workers_that_fit
from hbt_ray.cluster.runtime import node_resources
from hbt_ray.cluster.training.driver import resources_per_worker
from hbt_ray.config import RunConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What each of several runs asks of the cluster."""

    threads: int
    resources: dict[str, float]
    at_once: int


def plan_concurrency(run: RunConfig, wanted: int) -> ResourceRequest:
    """How many runs there is room for at a time, `wanted` at most, and with how much each.

    Raises:
        ClusterError: there never is for one.
    """
    train = run.train
    cpus = node_resources("CPU")
    if train.max_workers > 1:
        each = resources_per_worker(train)
        rounds = {
            name: workers_that_fit(node_resources(name), amount) // train.max_workers for name, amount in each.items()
        }
        fit = min(rounds.values())
        if not fit:
            check_workers(train.max_workers, each["CPU"], "CPU", cpus)
        # A run's own process computes nothing while its workers train: a byte, for Tune refuses to ask for nothing.
        return ResourceRequest(1, {"memory": 1}, min(wanted, max(fit, 1)))
    gpus = sum(map(int, node_resources("GPU")))
    gpu = gpus > 0 if train.gpu is None else train.gpu
    if gpu:
        check_workers(1, 1, "GPU", node_resources("GPU"))
    at_once = min(wanted, gpus) if gpu else wanted
    threads = train.threads_per_worker or share_of_each(cpus, min(at_once, int(sum(cpus)) or 1))
    check_workers(1, threads, "CPU", cpus)
    resources: dict[str, float] = {"CPU": threads, **({"GPU": 1} if gpu else {})}
    return ResourceRequest(threads, resources, min(at_once, workers_that_fit(cpus, threads)))


def run_tasks(
    jobs: Sequence[tuple[T, Callable[..., None], tuple[Any, ...]]], room: ResourceRequest, called: str
) -> Iterator[tuple[T, float]]:
    """Carries out jobs (what it is, function, arguments), as many at a time as there is room for.

    Args:
        called: what a job is called in a mistake that it meets.

    Yields:
        What has ended, and the seconds that it took.

    Raises:
        UserError: a job met it; ClusterError where Ray failed. The others are stopped.
    """
    options = {"num_cpus": room.threads, "num_gpus": room.resources.get("GPU", 0), "max_retries": 2}
    waiting = list(jobs)
    running: dict[Any, tuple[T, float]] = {}
    try:
        with unwrap_ray_errors(called):
            while waiting or running:
                while waiting and len(running) < room.at_once:
                    what, function, arguments = waiting.pop(0)
                    running[ray.remote(**options)(function).remote(*arguments)] = (what, time.monotonic())
                [ended], _ = ray.wait(list(running), num_returns=1)
                what, began = running.pop(ended)
                ray.get(ended)
                yield what, time.monotonic() - began
    finally:
        for begun in running:
            ray.cancel(begun, force=True)
