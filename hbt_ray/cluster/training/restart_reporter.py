"""The Ray Train callback that reports why workers are restarted. Runs on the controller."""

from __future__ import annotations

import textwrap

from ray.actor import ActorHandle
from ray.train import UserCallback

from hbt_ray.cluster.errors import failure_reason, find_hbt_error
from hbt_ray.cluster.training.messages import Notice
from hbt_ray.errors import full_disk_error


class RestartReporter(UserCallback):
    """Sends a notice for each failure of workers, or the error that restarting cannot resolve."""

    def __init__(self, channel: ActorHandle, max_failures: int, section: str) -> None:
        """Take the setting `max_failures`, and the name of its section for the notice."""
        self.channel = channel
        self.failures_left = max_failures
        self.section = section

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Report the failures of the ranks in `worker_exceptions`."""
        self.channel.clear_heartbeats.remote()
        for error in worker_exceptions.values():
            if fatal := find_hbt_error(error) or full_disk_error(error):
                self.channel.put_fatal_error.remote(fatal)
                return
        rank, error = min(worker_exceptions.items())
        reason = textwrap.shorten(failure_reason(error), 160, placeholder=" ...")
        next_step = "starting again"
        if self.failures_left <= 0:
            next_step = f"not started again; run the same command to resume, or raise {self.section}.max_failures"
        self.failures_left -= 1
        self.channel.put.remote(Notice(f"worker {rank} failed ({reason}); {next_step}"))
