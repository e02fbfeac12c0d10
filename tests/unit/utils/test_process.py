from __future__ import annotations

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from hbt_ray.utils.process import keep_freed_memory

TENSOR = 64 * 2**20  # bytes


def pages_mapped_again(keep: bool) -> int | None:
    """Page faults of an allocation as large as one that was freed before; None if malloc cannot be configured."""
    if keep and not keep_freed_memory():
        return None
    np.ones(TENSOR, np.int8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(TENSOR, np.int8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_not_mapped_again():
    def in_fresh_process(keep: bool) -> int | None:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(pages_mapped_again, keep).result()

    kept = in_fresh_process(True)
    if kept is None:
        pytest.skip("malloc cannot be configured")
    assert kept < 8  # what the interpreter allocates meanwhile
    assert in_fresh_process(False) >= TENSOR // 2**21  # pages have 4 KiB, or up to 2 MiB where the system has huge ones
