"""The actor through which rank 0, evaluation tasks and Ray Train's controller reach the driver.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hbt_ray.cluster.training.messages import Heartbeat, Message
from hbt_ray.cluster.training.watchdog import RankStatus
from hbt_ray.errors import HbtError


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the driver takes from the channel at a time."""

    messages: list[Message]
    number: int  # of messages received up to the last of these
    ranks: list[RankStatus]  # of the ranks that are running


class MetricsChannel:
    """An actor: queue of messages for the driver, and the state of a training that outlives its worker groups."""

    def __init__(self) -> None:
        self.queue: list[Message] = []
        self.num_received = 0
        self.num_acknowledged = 0
        self.evaluated: set[int] = set()
        self.fatal_error: HbtError | None = None
        self.heartbeats: dict[int, tuple[Heartbeat, float]] = {}  # rank -> its latest, and when it arrived
        self.changed = asyncio.Condition()

    async def put(self, *messages: Message) -> int:
        """Queue messages; return how many have been received, these included."""
        async with self.changed:
            self.queue += messages
            self.num_received += len(messages)
            self.changed.notify_all()
            return self.num_received

    async def take(self, wait_s: float) -> Delivery:
        """Empty the queue; if it is empty, wait up to `wait_s` seconds."""
        async with self.changed:
            await self._wait_for(lambda: bool(self.queue), wait_s)
            messages, self.queue = self.queue, []
            now_s = time.monotonic()
            ranks = [RankStatus(beat, now_s - arrived_s) for beat, arrived_s in self.heartbeats.values()]
            return Delivery(messages, self.num_received, ranks)

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Replace the rank's heartbeat."""
        self.heartbeats[heartbeat.rank] = (heartbeat, time.monotonic())

    async def remove_heartbeat(self, rank: int) -> None:
        """Forget a rank that has ended."""
        self.heartbeats.pop(rank, None)

    async def clear_heartbeats(self) -> None:
        """Forget all ranks: their worker group has ended."""
        self.heartbeats.clear()

    async def acknowledge(self, number: int) -> None:
        """Record that the driver has logged the first `number` messages: a kill cannot lose them any more."""
        async with self.changed:
            self.num_acknowledged = number
            self.changed.notify_all()

    async def wait_acknowledged(self, number: int, wait_s: float) -> None:
        """Wait until the driver has logged the first `number` messages, at most `wait_s` seconds."""
        async with self.changed:
            await self._wait_for(lambda: self.num_acknowledged >= number, wait_s)

    async def put_evaluated(self, step: int) -> None:
        """Record that a step's checkpoint has been evaluated, or could not be: it may be deleted."""
        self.evaluated.add(step)

    async def get_evaluated(self) -> set[int]:
        """Return the steps of `put_evaluated`."""
        return self.evaluated

    async def put_fatal_error(self, error: HbtError) -> None:
        """Record why starting the workers again cannot help."""
        self.fatal_error = error

    async def get_fatal_error(self) -> HbtError | None:
        """Return the error of `put_fatal_error`, if there is one."""
        return self.fatal_error

    async def _wait_for(self, condition: Callable[[], bool], wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait_for(condition), wait_s)


def start_metrics_channel() -> ActorHandle:
    """Start the actor on the driver's node, so that it exists as long as its only reader; return its handle."""
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=driver_node)(MetricsChannel).remote()
