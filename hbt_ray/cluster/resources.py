"""CPUs and GPUs: what each worker requests of the cluster, and how many runs fit at a time."""

from __future__ import annotations

from dataclasses import dataclass

from hbt_ray.cluster.runtime import node_resources
from hbt_ray.cluster.worker_counts import check_workers, max_units_per_worker, threads_per_worker, workers_that_fit
from hbt_ray.config import LoopConfig, RunConfig


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
