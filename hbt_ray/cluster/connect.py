"""Joining a Ray cluster, or starting one on this machine, and what it can give."""

from __future__ import annotations

import logging
import os

import ray
import ray.data

from hbt_ray.errors import ClusterError


def connect() -> None:
    """Joins the cluster named by RAY_ADDRESS (as under `ray job submit`), else starts one on this machine.

    The dashboard stays on, on loopback: Ray Train's clean-up asks it whether a controller is alive.
    """
    quiet()
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=True)
        else:
            ray.init(include_dashboard=True, dashboard_host="127.0.0.1", logging_level=logging.WARNING)
    except ConnectionError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); "
            "start one with `ray start --head`, or unset RAY_ADDRESS to use this machine alone"
        ) from None


def quiet() -> None:
    """Keeps libraries' progress bars and notices out of the output of this process."""
    for name in ("ray.data", "sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_operator_progress_bars = False


def most(resource: str) -> float:
    """How much of a resource the nodes hold together, or, where an autoscaler runs, may come to hold."""
    now = ray.cluster_resources().get(resource, 0.0)
    try:
        limits = ray._private.state.state.get_max_resources_from_cluster_config()
    except Exception:  # an internal of Ray: where it is gone, what there is now is what we know
        limits = None
    return max(now, float((limits or {}).get(resource, 0.0)))
