"""How many workers fit on nodes, and how many CPUs each can have. Ray is not imported."""

from __future__ import annotations

from collections.abc import Sequence

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


def equal_share(node_sizes: Sequence[float], workers: int) -> float:
    """Return the largest amount, at most 1, that every worker can have on some node, in Ray's steps of 0.0001.

    >>> equal_share([3, 1], workers=4), equal_share([3, 1], workers=5), equal_share([], workers=2)
    (1.0, 0.75, 0.0)
    """
    units = [int(size * 10_000) for size in node_sizes]
    shares = {min(node // count, 10_000) for node in units for count in range(1, workers + 1)} - {0}
    return max((share for share in shares if workers_that_fit(units, share) >= workers), default=0) / 10_000


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
    workers: int,
    per_worker: float,
    resource: str,
    node_sizes: Sequence[float],
    section: str = "train",
    where: str = "the cluster",
) -> None:
    """Check that the nodes can hold the workers.

    Args:
        workers: their number.
        per_worker: units of the resource that each requests.
        resource: "CPU" or "GPU".
        node_sizes: units of the resource by node.
        section: of the configuration, named in the message with the setting to change.
        where: the nodes are, for the message.

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
        f"{workers} workers with {per_worker:g} {resource} each do not fit {where}, which holds at most {fit} of "
        f"them; {way_out}"
    )
