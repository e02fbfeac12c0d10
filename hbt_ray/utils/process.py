"""Processes: the memory allocator's settings, running a function in a new process, and the age of this one."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

import psutil

from hbt_ray.utils.limits import load_json

P = ParamSpec("P")
R = TypeVar("R")
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's, of submitted jobs
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Configure malloc to keep freed memory for later allocations instead of returning it to the system.

    Each training step frees and allocates the same large tensors. The system would clear and map the pages of returned
    memory again. The process keeps its peak memory from then on, which it would reach again in the next step.

    Returns:
        Whether it is configured: glibc's malloc can be, others cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def run_in_subprocess(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Run a function in a new process and return its result, or raise its exception.

    The process is spawned, so it shares neither memory nor threads with its caller; the function must be importable
    by name.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments, **options).result()


def is_submitted_job() -> bool:
    """Return True in a job that `ray job submit` started."""
    return _JOB_VARIABLE in os.environ


def job_metadata() -> dict[str, str]:
    """Return what `ray job submit --metadata-json` was given, with Ray's entries; empty in no submitted job."""
    return _of_job("metadata")


def job_variables() -> dict[str, str]:
    """Return the environment variables that a submitted job's processes get from Ray; empty in no submitted job."""
    return _of_job("runtime_env", "env_vars")


def _of_job(*keys: str) -> dict[str, str]:
    """Return the texts below some keys of a submitted job's settings."""
    try:
        found = load_json(os.environ.get(_JOB_VARIABLE, "{}"))
        for key in keys:
            found = found.get(key) or {}
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()}


def seconds_since_start() -> float:
    """Return how long ago this process began, its imports included."""
    return time.time() - psutil.Process().create_time()
