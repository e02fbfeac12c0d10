"""Running jobs in processes that are forked from one that has imported what they need."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from typing import TypeVar

from hbt_ray.errors import HbtError
from hbt_ray.utils.progress import stage
from hbt_ray.utils.stage_mirror import StageMirror, StageState, report_stages

KeyT = TypeVar("KeyT")


def start_importing(module: str) -> None:
    """Start the process that jobs are forked from; it imports a module in the background."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])
    forkserver.ensure_running()


def run_in_processes(
    jobs: Sequence[tuple[KeyT, Callable[..., None], tuple[object, ...]]], description: str, max_concurrent: int
) -> Iterator[tuple[KeyT, float]]:
    """Run each job in a process of this machine. Their stages become stages of this process.

    Args:
        jobs: (key, function, arguments) each; the function must be importable by name.
        description: of the work, such as "strategies".
        max_concurrent: how many run at a time.

    Yields:
        The key of each job that has ended, in the order of their ends, and the seconds it took.

    Raises:
        Exception: what a job raised, with its traceback as a note; HbtError if its process was killed. The others are
            killed then.
    """
    context = multiprocessing.get_context("forkserver")
    waiting = list(jobs)
    running: dict[connection.Connection, tuple[KeyT, BaseProcess, float]] = {}
    stages: dict[str, Sequence[StageState]] = {}
    mirror = StageMirror()
    try:
        with stage(description, len(jobs)) as overall:
            while waiting or running:
                while waiting and len(running) < max_concurrent:
                    key, function, arguments = waiting.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    started = context.Process(target=_run_and_report, args=(sender, function, arguments), daemon=True)
                    started.start()
                    sender.close()
                    running[receiver] = (key, started, time.monotonic())
                overall.detail = ", ".join(str(key) for key, *_ in running.values())
                if waiting:
                    overall.detail += f"; next {waiting[0][0]}"
                ready = connection.wait(list(running))
                for receiver, (key, process, began_s) in list(running.items()):
                    if receiver not in ready:
                        continue
                    try:
                        message = receiver.recv()
                    except EOFError:
                        process.join()
                        raise HbtError(f"the process of {key} ended with code {process.exitcode}") from None
                    if isinstance(message, list):
                        stages[str(key)] = message
                        continue
                    if message is not None:
                        raise message
                    del running[receiver]
                    stages.pop(str(key), None)
                    overall.advance()
                    yield key, time.monotonic() - began_s
                mirror.set(stages)
    finally:
        mirror.set({})
        for _, left, _ in running.values():
            left.kill()


def _run_and_report(
    sender: connection.Connection, function: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    """Run a job, and send lists of its stages every second; then None, or the exception that it raised."""
    ended_with: BaseException | None = None
    try:
        with report_stages(sender.send):
            function(*arguments)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        ended_with = error
    sender.send(ended_with)
