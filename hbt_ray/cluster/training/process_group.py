"""Torch's process group of a worker group, which the workers join.

`ray.train.torch.TorchConfig` does the same, and imports torch in the driver and in Ray Train's controller as well. The
workers wait for both, so this module imports torch only in a worker.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import ray
import ray.train
import ray.util
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

T = TypeVar("T")

LEAVE_S = 5.0  # until a group whose ranks do not answer is given up; Ray Train ends their processes next


class WorkerGroup(Protocol):
    """What Ray Train's controller passes: functions run in its workers."""

    def execute_single(self, rank: int, function: Callable[..., T], *arguments: object) -> T:
        """Return a function's result in one worker."""

    def execute(self, function: Callable[..., T], *arguments: object) -> list[T]:
        """Return a function's result in each worker."""

    def execute_async(self, function: Callable[..., T], *arguments: object) -> list[ray.ObjectRef]:
        """Return references to a function's result in each worker."""


@dataclass
class ProcessGroupConfig(BackendConfig):
    """How the workers' torch processes find each other."""

    backend: str  # "gloo", or "nccl" with GPUs
    timeout_s: float  # of each collective operation

    @property
    def backend_cls(self) -> type[Backend]:
        return ProcessGroup


class ProcessGroup(Backend):
    """What Ray Train's controller does with the workers before and after the training."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: WorkerGroup, backend_config: ProcessGroupConfig) -> None:
        """Let all workers join the group, of which the first one is the server."""
        address, port = worker_group.execute_single(0, free_address)
        worker_group.execute(join, backend_config.backend, backend_config.timeout_s, address, port)

    def on_shutdown(self, worker_group: WorkerGroup, backend_config: ProcessGroupConfig) -> None:
        """Let all workers leave the group."""
        with contextlib.suppress(GetTimeoutError):
            ray.get(worker_group.execute_async(leave), timeout=LEAVE_S)


def free_address() -> tuple[str, int]:
    """Return this node's IP address, and a port that is free."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(("", 0))
        return address, int(server.getsockname()[1])


def join(backend: str, timeout_s: float, address: str, port: int) -> None:
    """Join the process group as the rank of this worker.

    Args:
        backend: of torch.
        timeout_s: of each collective operation.
        address: of the first rank's node.
        port: that is free there.
    """
    from datetime import timedelta

    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    dist.init_process_group(
        backend,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=timedelta(seconds=timeout_s),
    )


def leave() -> None:
    """Leave the group if it has several ranks, and free the GPU memory that torch holds."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
