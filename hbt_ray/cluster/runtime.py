"""Joining a Ray cluster, or starting one on this machine, and what it can give."""

from __future__ import annotations

import logging
import os
import socket

import ray
import ray.data
from ray._common.utils import reset_ray_address
from ray._private.utils import read_ray_address
from ray.exceptions import RayError
from ray.train.v2._internal.execution import context as train_context

from hbt_ray.errors import ClusterError

NOISY = (
    "ray.data",
    "ray.tune",
    "ray._private.authentication",
    train_context.__file__,  # Ray names this logger by its file: it prints every report in full, at whatever level
    "sentence_transformers",
    "transformers",
)


def connect() -> None:
    """Joins the cluster named by RAY_ADDRESS (as under `ray job submit`), else starts one on this machine.

    The dashboard stays on, on loopback: Ray Train's clean-up asks it whether a controller is alive.

    Raises:
        ClusterError: nothing answers there, or it wants a token that this user does not have.
    """
    configure_logging()
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _forget_dead_cluster()
    own = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        ray.init(address=address or "local", logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError, RayError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster {address or 'on this machine'} ({str(error).strip().splitlines()[0]}); "
            "start one with `ray start --head`, or unset RAY_ADDRESS to use this machine alone"
        ) from None


def _forget_dead_cluster() -> None:
    """Removes the note that a killed `ray start --head` left.

    Ray Train would ask the cluster named there about this run's controller, twelve seconds at a time.
    """
    noted = read_ray_address()
    host, _, port = (noted or "").rpartition(":")
    try:
        if noted:
            socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        reset_ray_address()


def configure_logging() -> None:
    """Keeps libraries' progress bars and notices out of the output of this process."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_operator_progress_bars = False


def node_resources(resource: str) -> list[float]:
    """How much of a resource each node has; what an autoscaler may still add counts as one more node."""
    sizes = [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]
    try:
        limits = ray._private.state.state.get_max_resources_from_cluster_config()
    except Exception:  # an internal of Ray: where it is gone, what there is now is what we know
        limits = None
    to_come = float((limits or {}).get(resource, 0.0)) - sum(sizes)
    return sizes + [to_come] * (to_come > 0)
