"""What a process does with memory that it frees."""

from __future__ import annotations

import ctypes

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
