"""Running independent jobs as Ray tasks, a limited number at a time."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from hbt_ray.cluster.errors import unwrap_ray_errors
from hbt_ray.cluster.resources import ResourceRequest
from hbt_ray.cluster.runtime import node_resources
from hbt_ray.cluster.worker_counts import workers_that_fit
from hbt_ray.utils.job_loop import Job, KeyT, run_jobs
from hbt_ray.utils.limits import under_these_limits
from hbt_ray.utils.stage_mirror import REPORT_EVERY_S, StageMirror, StageState, report_stages

Result = TypeVar("Result")


def run_in_order(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    description: str,
    *,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[Result]:
    """Yield a function's results in the order of its arguments, from as many tasks at a time as the nodes hold.

    Args:
        function: that each task runs.
        jobs: its arguments.
        description: of the work, for an error.
        cpus: of each task.
        gpus: of each task.

    Raises:
        HbtError: a task raised it; ClusterError if Ray failed. The other tasks are cancelled, also by Ctrl-C.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2)(under_these_limits(function))
    requests = {"CPU": cpus, "GPU": gpus}
    fit = min(workers_that_fit(node_resources(name), amount) for name, amount in requests.items() if amount)
    running: deque[ray.ObjectRef] = deque()

    def next_result() -> Result:
        result = ray.get(running[0])
        running.popleft()
        return result

    try:
        with unwrap_ray_errors(description):
            for arguments in jobs:
                if len(running) == max(fit, 1):
                    yield next_result()
                running.append(task.remote(*arguments))
            while running:
                yield next_result()
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)


def run_tasks(
    jobs: Sequence[Job[KeyT]],
    request: ResourceRequest,
    description: str,
    label: Callable[[KeyT], str] = str,
) -> Iterator[tuple[KeyT, float]]:
    """Run jobs as tasks, at most `request.max_concurrent` at a time. Their stages become stages of this process.

    Args:
        jobs: (key, function, arguments) each.
        request: resources of each task, and how many run at a time.
        description: of the work, such as "pretraining".
        label: names a job, given its key, in its stages.

    Yields:
        The key of each job that has ended, in the order of their ends, and the seconds it took.

    Raises:
        HbtError: a job raised it; ClusterError if Ray failed. The other jobs are cancelled.
    """
    options = {"num_cpus": request.threads, "num_gpus": request.resources.get("GPU", 0), "max_retries": 2}
    running: dict[ray.ObjectRef, KeyT] = {}
    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    mirror = _BoardMirror(board)

    def start(job: Job[KeyT]) -> ray.ObjectRef:
        key, function, arguments = job
        return ray.remote(**options)(_run_and_report).remote(function, arguments, label(key), board)

    def wait() -> Iterator[ray.ObjectRef]:
        ended, _ = ray.wait(list(running), num_returns=1, timeout=REPORT_EVERY_S)
        mirror.update()
        for one in ended:
            ray.get(one)
            yield one

    try:
        with unwrap_ray_errors(description):
            yield from run_jobs(
                jobs,
                running,
                start,
                wait,
                description=description,
                max_concurrent=request.max_concurrent,
                label=label,
            )
    finally:
        mirror.end()
        for unfinished in running:
            ray.cancel(unfinished, force=True)
        ray.kill(board)


class ProgressBoard:
    """An actor that holds the active stages of each task."""

    def __init__(self) -> None:
        self.stages: dict[str, list[StageState]] = {}

    def write(self, label: str, stages: list[StageState]) -> None:
        """Replace a task's stages."""
        self.stages[label] = stages

    def read(self) -> dict[str, list[StageState]]:
        """Return the stages of all tasks, by label."""
        return self.stages


def _run_and_report(
    function: Callable[..., None], arguments: tuple[object, ...], label: str, board: ActorHandle
) -> None:
    """Run a job in a task, which writes its active stages to the board every second."""
    with report_stages(lambda stages: board.write.remote(label, stages)):
        function(*arguments)


class _BoardMirror:
    """Keeps stages of this process like those on the board; never waits for it."""

    def __init__(self, board: ActorHandle) -> None:
        self._board = board
        self._reply = board.read.remote()
        self._mirror = StageMirror()

    def update(self) -> None:
        """Begin, advance and end stages as the board has them."""
        with contextlib.suppress(RayError):  # progress is not worth a failure
            if ray.wait([self._reply], timeout=0)[0]:
                self._mirror.set(ray.get(self._reply))
                self._reply = self._board.read.remote()

    def end(self) -> None:
        """End all stages."""
        self._mirror.set({})
