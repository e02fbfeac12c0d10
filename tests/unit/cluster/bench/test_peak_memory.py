"""The peak memory of a process while a block runs."""

from __future__ import annotations

import gc
import time

import numpy as np

from hbt_ray.cluster.bench.peak_memory import peak_mib, this_process


def test_peak_includes_memory_that_is_freed_within_the_block():
    gc.collect()  # what earlier tests left is not freed between the blocks
    with peak_mib(this_process) as before:
        time.sleep(0.3)
    with peak_mib(this_process) as peak:
        memory = np.ones(100 * 2**17)  # 100 MiB
        time.sleep(0.3)
        del memory
        time.sleep(0.3)
    assert 90 < peak[0] - before[0] < 150
