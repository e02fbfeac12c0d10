"""The thread of each rank that reports what the rank is doing, and its stacks when a step takes too long."""

from __future__ import annotations

import faulthandler
import tempfile
import threading
import time

from ray.actor import ActorHandle

from hbt_ray.cluster.training.messages import Heartbeat, Stacks
from hbt_ray.utils.activity import current

HEARTBEAT_EVERY_S = 1.0


class HeartbeatSender:
    """A context in which a thread sends this rank's heartbeat to the `MetricsChannel` every second.

    When a step has taken longer than `step_timeout_s`, the thread also sends the stacks of all threads, once a step.
    The thread needs the interpreter lock: it reports a rank that waits for other ranks, for data or for storage, since
    all of these release the lock. A rank that holds it, or is stopped, is reported by its missing heartbeats.
    """

    def __init__(self, channel: ActorHandle, rank: int, step_timeout_s: float) -> None:
        self.channel = channel
        self.rank = rank
        self.step_timeout_s = step_timeout_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> HeartbeatSender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.channel.remove_heartbeat.remote(self.rank)

    def _run(self) -> None:
        dumped_step = -1
        while True:
            step, step_s = current.step, time.monotonic() - current.step_began_s
            self.channel.put_heartbeat.remote(Heartbeat(self.rank, step, current.phase, step_s))
            if step_s > self.step_timeout_s and step != dumped_step:
                dumped_step = step
                self.channel.put.remote(Stacks(self.rank, step, all_stacks()))
            if self._ended.wait(min(HEARTBEAT_EVERY_S, self.step_timeout_s / 4)):
                return


def all_stacks() -> str:
    """Return the Python stacks of this process's threads."""
    with tempfile.TemporaryFile("w+") as file:  # faulthandler writes to a file descriptor
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
