"""How many workers fit on which nodes. Decides; asks no cluster."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.errors import ClusterError


def workers_that_fit(node_sizes: Sequence[float], each: float) -> int:
    """How many workers of `each` units the nodes hold, none split over two nodes.

    >>> workers_that_fit([4, 16], each=3)
    6
    """
    return sum(int(size // each) for size in node_sizes)


def threads_of_each(node_sizes: Sequence[float], workers: int) -> int:
    """CPUs for each of the workers: their share of the nodes; a single worker leaves one for its feed and for Ray.

    Two threads that compute together wait for each other: where anything else takes a CPU from one, both stand still.

    >>> threads_of_each([2], workers=1), threads_of_each([8], workers=1), threads_of_each([4, 16], workers=5)
    (1, 7, 4)
    """
    share = share_of_each(node_sizes, workers)
    return max(share - 1, 1) if workers == 1 else share


def share_of_each(node_sizes: Sequence[float], workers: int) -> int:
    """The most whole units that every one of the workers can have on some node, at least 1.

    >>> share_of_each([4, 16], workers=5)
    4
    """
    shares = range(max(int(max(node_sizes, default=1)), 1), 0, -1)
    return next((each for each in shares if workers_that_fit(node_sizes, each) >= workers), 1)


def check_workers(
    workers: int, each: float, resource: str, node_sizes: Sequence[float], section: str = "train"
) -> None:
    """Raises ClusterError, with the way out in a section of the settings, when the nodes can never hold the workers."""
    fit = workers_that_fit(node_sizes, each)
    if fit >= workers:
        return
    if resource == "GPU" and not fit:
        way_out = f"write {section}.gpu=false to train on CPUs"
    elif fit:
        way_out = f"write {section}.workers={fit}"
    else:
        way_out = f"write {section}.threads_per_worker={max(int(max(node_sizes, default=1)), 1)}"
    raise ClusterError(
        f"{workers} workers of {each:g} {resource} each cannot be had: the cluster can give {fit} of them at most; "
        + way_out
    )
