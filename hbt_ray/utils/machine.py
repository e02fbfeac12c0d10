"""What this machine has, found without importing torch or Ray: CPUs, GPUs, memory; and whether a server answers."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and Windows' subsystem for Linux


@dataclass(frozen=True, slots=True)
class Cpus:
    """The CPUs of this machine, and how many of them this process may use."""

    count: int  # of the machine
    affinity: int  # to which the scheduler binds this process
    quota: float | None  # of the container's cgroup; None: no limit

    @property
    def ray(self) -> int:
        """The number that Ray counts on this machine, which does not consider the affinity."""
        return self.count if self.quota is None else max(min(self.count, int(self.quota)), 1)

    @property
    def usable(self) -> int:
        """The number that can compute at the same time."""
        return max(min(self.count, self.affinity, math.floor(self.quota or self.count)), 1)


def count_cpus(cgroup: Path = _CGROUP) -> Cpus:
    """Return the CPUs of this machine and the limits on them."""
    count = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    return Cpus(count, affinity, _cgroup_quota(cgroup))


def _cgroup_quota(cgroup: Path) -> float | None:
    """Return the CPUs of a cgroup's quota, version 2 or 1; None if there is none."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # "max" is no limit
        return None


def memory_limit(cgroup: Path = _CGROUP) -> int:
    """Return the bytes of memory that this process may use: the machine's, or those of its cgroup."""
    limits = [psutil.virtual_memory().total]
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def list_gpus() -> list[str] | None:
    """Return the names of the GPUs that this process may use; None if there may be some that cannot be listed."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            listed = subprocess.run(query, capture_output=True, text=True, timeout=4)
        except (OSError, subprocess.TimeoutExpired):
            return None
        names = [line.strip() for line in listed.stdout.splitlines() if line.strip()] if not listed.returncode else []
        if names:
            return names if visible is None else names[: len(visible.split(","))]
    return None if any(Path(device).exists() for device in _GPU_DEVICES) else []


def torch_without_gpu() -> str | None:
    """Return the version of the installed torch if it was built for CPUs only."""
    installed = version("torch")
    return installed if installed.endswith("+cpu") else None


def cpu_features() -> frozenset[str]:
    """Return the instruction sets of the CPU by Linux's names, such as `avx512_bf16` and `amx_bf16`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith(("flags", "Features"))), frozenset())


def answers(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Return whether a server accepts TCP connections."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except (OSError, UnicodeError):
        return False
    return True


def host_and_port(address: str, default_ports: Mapping[str, int]) -> tuple[str, int] | None:
    """Return the host and port of `host:port` or a URL; None if it has no host or no port.

    >>> host_and_port("10.0.0.1:6379", {}), host_and_port("http://a/b", {"http": 80}), host_and_port("auto", {})
    (('10.0.0.1', 6379), ('a', 80), None)
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or default_ports.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None
