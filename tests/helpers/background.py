"""Work in other processes that begins when the tests are collected, and is done while earlier tests run.

Tests run in one process, and what some of them need takes long: a search, a study, a job. With a second core it is
ready when they begin.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from tests.helpers.forked import fork_server


class BackgroundWork:
    """Calls functions one after another, each in a new process.

    Args:
        prepare: is called first in each process.
        environment: of the processes, besides that of this one.
    """

    def __init__(self, prepare: Callable[[], None], environment: Mapping[str, str]) -> None:
        self._prepare, self._environment = prepare, dict(environment)
        self._thread = ThreadPoolExecutor(1)
        self._futures: dict[str, Future[Any]] = {}

    def start(self, name: str, function: Callable[..., Any], *arguments: object) -> None:
        """Call a function when those before it have returned. It, its arguments and its value are pickled."""
        self._futures[name] = self._thread.submit(self._call_in_process, function, arguments)

    def _call_in_process(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        with ProcessPoolExecutor(1, fork_server()) as process:
            return process.submit(_call, self._environment, self._prepare, function, arguments).result()

    def result(self, name: str) -> Any:
        """Wait for a function's value, or raise its error."""
        return self._futures[name].result(600)

    def finish(self) -> None:
        """Wait for all functions."""
        for future in self._futures.values():
            future.exception(600)

    def stop(self) -> None:
        """Kill what is running."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()


def _call(
    environment: Mapping[str, str],
    prepare: Callable[[], None],
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> Any:
    os.environ.update(environment)
    prepare()
    return function(*arguments)
