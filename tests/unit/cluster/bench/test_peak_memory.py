"""The peak memory of a process while a block runs."""

from __future__ import annotations

import subprocess
import sys

import psutil

from hbt_ray.cluster.bench.peak_memory import peak_mib

# In a process of its own: what earlier tests left in this one may be freed at any time.
_ALLOCATE_AND_FREE = """
input()
memory = b"x" * (100 * 2**20)
time.sleep(0.5)
del memory
time.sleep(0.5)
"""


def test_peak_includes_memory_that_is_freed_within_the_block():
    command = [sys.executable, "-I", "-c", "import time" + _ALLOCATE_AND_FREE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as child:
        measured = [psutil.Process(child.pid)]
        with peak_mib(lambda: measured) as peak:
            child.communicate("\n")
    assert 100 < peak[0] < 150  # with the interpreter's own memory
