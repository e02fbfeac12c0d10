"""Runs on a cluster whose nodes are added and lost.

`python -m tests.integration.two_node_cluster SCENARIO FOLDER`

A process of its own, because a process can be connected to one cluster at a time. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")

NOTICE_S = 120  # between the announcement of a preemption and the loss of the node, also on a machine with other load
WORKER_CPUS = 2  # more than the head has, so that every worker is on a node that can be lost
STEPS = {"raylet": 150, "elastic": 1000, "preemption": 1000}  # at least
STEPS_BETWEEN = 60  # losses of a node, at least
EVERY = {"raylet": 5, "elastic": 25, "preemption": 100_000}  # steps between checkpoints


def steps_of(scenario: str, times: int) -> int:
    """Return the steps of a training with so many faults."""
    return max(STEPS[scenario], STEPS_BETWEEN * times if scenario == "raylet" else 0)


def config_of(scenario: str, corpus: Path, times: int, **train: Any) -> Any:
    from tests.integration.conftest import tiny_config

    settings = {"steps": steps_of(scenario, times), "checkpoint_every": EVERY[scenario]}
    # At this rate the loss stays far from 0 to the end, so that the losses of different batches differ.
    fixed = {"learning_rate": 3e-5, "threads_per_worker": WORKER_CPUS, "max_failures": 20 + times}
    return tiny_config(corpus, train=settings | fixed | train)


class Nodes:
    """A head with too few CPUs for a worker, and nodes with enough for one each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
        os.environ["RAY_ADDRESS"] = self.cluster.address
        self.added: list[Any] = []

    def add(self) -> None:
        self.added.append(self.cluster.add_node(num_cpus=WORKER_CPUS))

    def lose(self, index: int = 0) -> float:
        """Kill a node's processes, as a power failure would; return when, of `time.monotonic`."""
        struck_s = time.monotonic()
        self.cluster.remove_node(self.added.pop(index), allow_graceful=False)
        return struck_s

    def drain(self, node_id: str, seconds: int) -> None:
        """Announce that a node will be preempted, as a cloud does."""
        import ray
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._raylet.GcsClient(address=self.cluster.address)
        accepted, why = client.drain_node(node_id, reason, "taken back", int((time.time() + seconds) * 1000))
        assert accepted, why


def worker_nodes() -> list[str]:
    """Return the nodes of the training workers."""
    from ray.util.state import list_actors

    return [actor.node_id for actor in list_actors() if "RayTrainWorker" in actor.class_name and actor.state == "ALIVE"]


def wait_until(condition: Any, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)


class Running:
    """A training in another thread, because nodes can be added only from the main thread."""

    def __init__(self, config: Any, out: Path) -> None:
        from hbt_ray.cluster.pipelines.train import run

        self.out = out
        self.error: list[BaseException] = []

        def work() -> None:
            try:
                run(config, out)
            except BaseException as error:
                self.error.append(error)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    @property
    def newest(self) -> int:
        from tests.integration.fault_injection import newest_step

        return newest_step(self.out)

    def recovery_seconds(self, struck_s: float) -> list[float]:
        """Wait for the first step after a fault whose processes have ended; return the seconds since `struck_s`."""
        from tests.integration.fault_record import recovery_seconds

        return recovery_seconds(lambda: self.newest, struck_s, [], self.ended)

    def ended(self) -> bool:
        return not self.thread.is_alive()

    def reach(self, step: int) -> None:
        wait_until(lambda: self.newest >= step or self.ended())

    def join(self, seconds: float = 300) -> None:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the run hangs"
        if self.error:
            raise self.error[0]


def raylet(nodes: Nodes, corpus: Path, folder: Path, times: int) -> dict[str, Any]:
    """Lose the worker's node at random moments, and add another."""
    draw = random.Random(7)
    running = Running(config_of("raylet", corpus, times), folder / "faulty")
    lost_at: list[int] = []
    recovery_s: list[float] = []
    for _ in range(times):
        running.reach(running.newest + draw.choice([5, 10, 15]))
        time.sleep(draw.random())
        if running.ended():
            break
        struck_s = nodes.lose()
        lost_at.append(running.newest)
        nodes.add()
        recovery_s += running.recovery_seconds(struck_s)
    running.join()
    return {"lost_at": lost_at, "recovery_s": recovery_s}


def elastic(nodes: Nodes, corpus: Path, folder: Path, times: int) -> dict[str, Any]:
    """Resize the group from one worker to two, and back to one."""
    running = Running(config_of("elastic", corpus, times, workers=[1, 2]), folder / "faulty")
    running.reach(25)
    sizes = [len(worker_nodes())]
    nodes.add()
    wait_until(lambda: len(worker_nodes()) == 2 or running.ended(), 180)
    grown_at = running.newest
    running.reach(grown_at + 50)
    sizes.append(len(worker_nodes()))
    shrunk_at = running.newest
    recovery_s = running.recovery_seconds(nodes.lose())
    sizes.append(len(worker_nodes()))
    running.join(600)
    return {"sizes": sizes, "grown_at": grown_at, "shrunk_at": shrunk_at, "recovery_s": recovery_s}


def preemption(nodes: Nodes, corpus: Path, folder: Path, times: int) -> dict[str, Any]:
    """Announce the preemption of the worker's node long before the next checkpoint is due, then remove it."""
    running = Running(config_of("preemption", corpus, times), folder / "faulty")
    wait_until(lambda: len(worker_nodes()) == 1 or running.ended())
    time.sleep(15)  # in the middle of the training
    [node] = worker_nodes()
    nodes.drain(node, seconds=NOTICE_S)
    wait_until(lambda: running.newest > 0 or running.ended(), NOTICE_S)
    saved = running.newest
    struck_s = nodes.lose()
    nodes.add()
    running.join(600)  # which saves its next checkpoint at its end
    return {"saved": saved, "recovery_s": [time.monotonic() - struck_s]}


def main(scenario: str, folder: str, times: str = "1") -> None:
    folder_path = Path(folder)
    nodes, number = Nodes(), int(times)
    corpus = folder_path / "numbers"
    nodes.add()
    Running(config_of(scenario, corpus, number), folder_path / "reference").join()
    scenarios = {"raylet": raylet, "elastic": elastic, "preemption": preemption}
    found = scenarios[scenario](nodes, corpus, folder_path, number)
    described = {"steps": steps_of(scenario, number), "checkpoint_every": EVERY[scenario]}
    print(json.dumps(found | described), flush=True)
    os._exit(0)  # the cluster's processes end with this one


if __name__ == "__main__":
    main(*sys.argv[1:])
