"""What `hbt doctor` finds on this machine: versions, processors, memory, Ray, MLflow and disks. Nothing is started."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil

from hbt_ray.cluster.preflight import ADDRESS, check_cluster_address
from hbt_ray.config import TrackingConfig
from hbt_ray.errors import HbtError, TrackingError
from hbt_ray.tracking.server import check_host, resolve_uri, sqlite_file
from hbt_ray.utils.machine import (
    count_cpus,
    cpu_features,
    list_gpus,
    memory_limit,
    torch_without_gpu,
)
from hbt_ray.utils.redaction import redact_value

LIBRARIES = ("torch", "transformers", "sentence-transformers", "ray", "mlflow", "faiss-cpu")
_MIN_FREE = 2 * 2**30  # bytes; a run of a base model has two checkpoints of a gigabyte
_FAST_BF16 = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX", "bf16": "ARM BF16"}

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was found, and whether it stops a run."""

    name: str
    text: str
    verdict: Verdict = "ok"


def examine(results: Path) -> list[Finding]:
    """Return the findings, in the order in which they are shown.

    Args:
        results: folder of all results.
    """
    return [*_versions(), *_processors(), _ray(), _mlflow(results), *_disks(results)]


def _versions() -> Iterator[Finding]:
    yield Finding("hbt_ray", f"{version('hbt_ray')}, Python {platform.python_version()}, {sys.platform}")
    for names in (LIBRARIES[:3], LIBRARIES[3:]):
        found = {name: _version_of(name) for name in names}
        missing = [name for name, number in found.items() if number is None]
        text = ", ".join(f"{name} {number or 'is missing'}" for name, number in found.items())
        if missing:
            text += f"; pip install {shlex.join(map(_requirement_of, missing))}"
        yield Finding("libraries", text, "wrong" if missing else "ok")


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirement_of(library: str) -> str:
    """Return what this package requires of a library, such as `faiss-cpu` or `mlflow==3.17.2`."""
    return next((one for one in requires("hbt_ray") or () if re.split(r"[^\w-]", one)[0] == library), library)


def _processors() -> Iterator[Finding]:
    cpus = count_cpus()
    limits = [f"affinity {cpus.affinity}"] if cpus.affinity < cpus.count else []
    limits += [f"container {cpus.quota:g}"] if cpus.quota is not None and cpus.quota < cpus.count else []
    text = f"{cpus.usable} of {cpus.count} cores" + (f" ({', '.join(limits)})" if limits else "")
    if cpus.ray > cpus.usable:
        yield Finding("CPU", f"{text}; Ray counts {cpus.ray}: write train.threads_per_worker={cpus.usable}", "note")
    else:
        yield Finding("CPU", text)
    fast = [name for flag, name in _FAST_BF16.items() if flag in cpu_features()]
    yield Finding("bf16", f"fast on the CPU ({', '.join(fast)})" if fast else "slow on the CPU; precision=auto is fp32")
    total, free = memory_limit(), psutil.virtual_memory().available
    yield Finding("memory", f"{_gigabytes(min(free, total))} of {_gigabytes(total)} free")
    gpus, cpu_torch = list_gpus(), torch_without_gpu()
    if gpus and cpu_torch:
        yield Finding("GPU", f"{gpus[0]}, not used: torch {cpu_torch} is for CPUs; install torch with CUDA", "note")
    else:
        found = "not known: nvidia-smi does not answer" if gpus is None else ", ".join(sorted(set(gpus))) or "none"
        yield Finding("GPU", f"{len(gpus)} x {found}" if gpus else found, "note" if gpus is None else "ok")


def _ray() -> Finding:
    address = os.environ.get(ADDRESS)
    if not address:
        return Finding("Ray", f"is started on this machine when it is needed ({ADDRESS} is not set)")
    try:
        check_cluster_address()
    except HbtError as error:
        return Finding("Ray", str(error), "wrong")
    return Finding("Ray", f"{address} answers")


def _mlflow(results: Path) -> Finding:
    uri = resolve_uri(TrackingConfig(), results / "run")
    try:
        has_answered = check_host(uri)
    except TrackingError as error:
        return Finding("MLflow", str(error), "wrong")
    file, shown = sqlite_file(uri), redact_value(uri)
    if file:
        return Finding("MLflow", f"{shown} {'exists' if file.exists() else 'is made by the first run'}")
    return Finding("MLflow", f"{shown} answers" if has_answered else shown)


def _disks(results: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (results, *results.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{_gigabytes(free)} free for {results}"
    if not _is_writable(folder):
        yield Finding("results", f"{folder} cannot be written; write --out or HBT_RUNS", "wrong")
    elif free < _MIN_FREE:
        yield Finding("results", f"{text}; free space, or write --out or HBT_RUNS", "wrong")
    else:
        yield Finding("results", text)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        is_small = free < 0.3 * memory_limit()  # which Ray takes for its object store
        text = f"{_gigabytes(free)} free" + "; Ray keeps objects on disk" * is_small
        yield Finding("/dev/shm", text, "note" if is_small else "ok")


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
