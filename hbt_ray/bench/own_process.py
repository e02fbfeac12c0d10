"""A function in a process of its own, so that it shares neither memory nor threads with its caller."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def run_in_subprocess(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or raises, in a process that ends with it. It must be importable by name."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()
