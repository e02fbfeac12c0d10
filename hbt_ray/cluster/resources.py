"""CPUs and GPUs: how many workers fit on which nodes, what each worker requests, how many runs fit at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbt_ray.cluster.runtime import node_resources
from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.errors import ClusterError


def workers_that_fit(node_sizes: Sequence[float], per_worker: float) -> int:
    """Return how many workers of `per_worker` units the nodes hold, none split over two nodes.

    >>> workers_that_fit([4, 16], per_worker=3)
    6
    """
    return sum(int(size // per_worker) for size in node_sizes)


def max_units_per_worker(node_sizes: Sequence[float], workers: int) -> int:
    """Return the largest whole number of units that every worker can have on some node, at least 1.

    >>> max_units_per_worker([4, 16], workers=5)
    4
    """
    candidates = range(max(int(max(node_sizes, default=1)), 1), 0, -1)
    return next((units for units in candidates if workers_that_fit(node_sizes, units) >= workers), 1)


def threads_per_worker(node_sizes: Sequence[float], workers: int) -> int:
    """Return the CPUs of each worker: the nodes' CPUs divided; a single worker leaves one to its data feed and Ray.

    Threads that compute one operation together wait for each other, so one CPU that another process takes from a
    worker stops all of its threads.

    >>> threads_per_worker([2], workers=1), threads_per_worker([8], workers=1), threads_per_worker([4, 16], workers=5)
    (1, 7, 4)
    """
    units = max_units_per_worker(node_sizes, workers)
    return max(units - 1, 1) if workers == 1 else units


def check_workers(
    workers: int, per_worker: float, resource: str, node_sizes: Sequence[float], section: str = "train"
) -> None:
    """Check that the nodes can hold the workers.

    Args:
        workers: their number.
        per_worker: units of the resource that each requests.
        resource: "CPU" or "GPU".
        node_sizes: units of the resource by node.
        section: of the configuration, named in the message with the setting to change.

    Raises:
        ClusterError: they never can.
    """
    fit = workers_that_fit(node_sizes, per_worker)
    if fit >= workers:
        return
    if resource == "GPU" and not fit:
        way_out = f"write {section}.gpu=false to train on CPUs"
    elif fit:
        way_out = f"write {section}.workers={fit}"
    else:
        way_out = f"write {section}.threads_per_worker={max(int(max(node_sizes, default=1)), 1)}"
    raise ClusterError(
        f"{workers} workers with {per_worker:g} {resource} each do not fit the cluster, which holds at most {fit} of "
        f"them; {way_out}"
    )


def resources_per_worker(train: LoopConfig) -> dict[str, float]:
    """Return what each worker requests: a GPU if every worker can have one, else an equal number of the CPUs.

    Raises:
        ClusterError: the cluster, with the nodes that an autoscaler may add, cannot hold the minimum of workers.
    """
    gpu = sum(map(int, node_resources("GPU"))) >= train.min_workers if train.gpu is None else train.gpu
    resources: dict[str, float] = {"GPU": 1} if gpu else {}
    elastic = train.max_workers > train.min_workers
    cpus = 1 if gpu or elastic else threads_per_worker(node_resources("CPU"), train.max_workers)
    resources["CPU"] = train.threads_per_worker or cpus
    for name, amount in resources.items():
        check_workers(train.min_workers, amount, name, node_resources(name), train.section)
    return resources


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What each of several runs requests, and how many run at a time."""

    threads: int
    resources: dict[str, float]
    max_concurrent: int


def plan_concurrency(run: RunConfig, max_concurrent: int) -> ResourceRequest:
    """Return how many runs to execute at a time, at most `max_concurrent`, and what each requests.

    Raises:
        ClusterError: the cluster cannot hold even one.
    """
    train = run.train
    cpus = node_resources("CPU")
    if train.max_workers > 1:
        per_worker = resources_per_worker(train)
        fit = min(
            workers_that_fit(node_resources(name), amount) // train.max_workers for name, amount in per_worker.items()
        )
        if not fit:
            check_workers(train.max_workers, per_worker["CPU"], "CPU", cpus)
        # The trial's process only waits for its Ray Train workers. One byte of memory: Tune rejects an empty request.
        return ResourceRequest(1, {"memory": 1}, min(max_concurrent, max(fit, 1)))
    gpus = sum(map(int, node_resources("GPU")))
    gpu = gpus > 0 if train.gpu is None else train.gpu
    if gpu:
        check_workers(1, 1, "GPU", node_resources("GPU"))
    concurrent = min(max_concurrent, gpus) if gpu else max_concurrent
    threads = train.threads_per_worker or max_units_per_worker(cpus, min(concurrent, int(sum(cpus)) or 1))
    check_workers(1, threads, "CPU", cpus)
    resources: dict[str, float] = {"CPU": threads, **({"GPU": 1} if gpu else {})}
    return ResourceRequest(threads, resources, min(concurrent, workers_that_fit(cpus, threads)))
