"""Running jobs in processes that are forked from one that has imported what they need."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess

from hbt_ray.errors import HbtError
from hbt_ray.utils.job_loop import Job, KeyT, run_jobs
from hbt_ray.utils.stage_mirror import StageMirror, StageState, report_stages


def start_importing(module: str) -> None:
    """Start the process that jobs are forked from; it imports a module in the background."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])
    forkserver.ensure_running()


def run_in_processes(jobs: Sequence[Job[KeyT]], description: str, max_concurrent: int) -> Iterator[tuple[KeyT, float]]:
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
    running: dict[connection.Connection, KeyT] = {}
    processes: dict[connection.Connection, BaseProcess] = {}
    stages: dict[str, Sequence[StageState]] = {}
    mirror = StageMirror()

    def start(job: Job[KeyT]) -> connection.Connection:
        _, function, arguments = job
        receiver, sender = context.Pipe(duplex=False)
        processes[receiver] = context.Process(target=_run_and_report, args=(sender, function, arguments), daemon=True)
        processes[receiver].start()
        sender.close()
        return receiver

    def wait() -> Iterator[connection.Connection]:
        ready = connection.wait(list(running))
        for receiver in [one for one in running if one in ready]:
            try:
                message = receiver.recv()
            except EOFError:
                processes[receiver].join()
                code = processes[receiver].exitcode
                raise HbtError(f"the process of {running[receiver]} ended with code {code}") from None
            if isinstance(message, list):
                stages[str(running[receiver])] = message
            elif message is not None:
                raise message
            else:
                stages.pop(str(running[receiver]), None)
                yield receiver
        mirror.set(stages)

    try:
        yield from run_jobs(jobs, running, start, wait, description=description, max_concurrent=max_concurrent)
    finally:
        mirror.set({})
        for left in running:
            processes[left].kill()


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
