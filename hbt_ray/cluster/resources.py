"""CPUs and GPUs: what each worker requests of the cluster, and how many runs fit at a time."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

from hbt_ray.cluster.runtime import has_autoscaler, node_resources
from hbt_ray.cluster.worker_counts import check_workers, max_units_per_worker, threads_per_worker, workers_that_fit
from hbt_ray.config import LoopConfig, RunConfig

logger = logging.getLogger(__name__)


def has_gpus(workers: int) -> bool:
    """Return whether every worker can have a GPU: live nodes have enough, or an autoscaler can add to those there."""
    gpus = sum(map(int, node_resources("GPU")))
    if gpus >= workers or not has_autoscaler():
        return gpus >= workers
    if not gpus:
        _warn_once(
            "no node has a GPU now, so CPUs are used; if the autoscaler can start nodes with GPUs, write gpu: true for "
            "a training, or let it keep one such node (min_workers or minReplicas: 1)"
        )
    return gpus > 0


def _check_fits(workers: int, amount: float, resource: str, section: str = "train") -> None:
    """Raise ClusterError if the cluster can never hold the workers; warn if they wait for nodes of an autoscaler."""
    sizes = node_resources(resource)
    if not has_autoscaler():
        check_workers(workers, amount, resource, sizes, section)
    elif (fit := workers_that_fit(sizes, amount)) < workers:
        _warn_once(
            f"the nodes hold {fit} of {workers} workers with {amount:g} {resource} each now; the others wait until the "
            "autoscaler has started nodes for them"
        )


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def resources_per_worker(train: LoopConfig) -> dict[str, float]:
    """Return what each worker requests: a GPU if every worker can have one, else an equal number of the CPUs.

    Raises:
        ClusterError: the cluster cannot hold the minimum of workers, and has no autoscaler.
    """
    gpu = has_gpus(train.min_workers) if train.gpu is None else train.gpu
    resources: dict[str, float] = {"GPU": 1} if gpu else {}
    elastic = train.max_workers > train.min_workers
    cpus = 1 if gpu or elastic else threads_per_worker(node_resources("CPU"), train.max_workers)
    resources["CPU"] = train.threads_per_worker or cpus
    for name, amount in resources.items():
        _check_fits(train.min_workers, amount, name, train.section)
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
        ClusterError: the cluster cannot hold even one, and has no autoscaler.
    """
    train = run.train
    cpus = node_resources("CPU")
    if train.max_workers > 1:
        per_worker = resources_per_worker(train)
        fit = min(
            workers_that_fit(node_resources(name), amount) // train.max_workers for name, amount in per_worker.items()
        )
        if not fit:
            _check_fits(train.max_workers, per_worker["CPU"], "CPU")
        # The trial's process only waits for its Ray Train workers. One byte of memory: Tune rejects an empty request.
        return ResourceRequest(1, {"memory": 1}, min(max_concurrent, max(fit, 1)))
    gpu = has_gpus(1) if train.gpu is None else train.gpu
    if gpu:
        _check_fits(1, 1, "GPU")
        if has_autoscaler():  # a node with a GPU may come for each run, with an unknown number of CPUs
            threads = train.threads_per_worker or 1
            return ResourceRequest(threads, {"CPU": threads, "GPU": 1}, max_concurrent)
    concurrent = min(max_concurrent, sum(map(int, node_resources("GPU")))) if gpu else max_concurrent
    threads = train.threads_per_worker or max_units_per_worker(cpus, min(concurrent, int(sum(cpus)) or 1))
    _check_fits(1, threads, "CPU")
    resources: dict[str, float] = {"CPU": threads, **({"GPU": 1} if gpu else {})}
    return ResourceRequest(threads, resources, min(concurrent, max(workers_that_fit(cpus, threads), 1)))
