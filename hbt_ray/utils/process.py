"""Processes: the memory allocator's settings, and running a function in a new process."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed for the next allocation, rather than give it back to the system.

    A training step frees and allocates the same large tensors over and over; given back, each of their pages is
    handed out, cleared and mapped anew. The process holds its peak from then on, which it would reach again anyway.

    Returns:
        Whether it could be told so: glibc can, others decide for themselves.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def run_in_subprocess(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a new process and return its result, or raise its exception.

    The process is spawned, so it shares neither memory nor threads with its caller; the function must be importable
    by name.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()
