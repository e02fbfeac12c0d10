"""A night of faults, drawn at random over all kinds: a training, and commands that are called again, end as without.

`HBT_FAULT_NIGHT` is the number of faults and `HBT_FAULT_SEED` that of the draw; without the former this is skipped.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from hbt_ray.config import dump_config
from tests.integration.conftest import tiny_config, write_corpus
from tests.integration.fault_injection import (
    contents,
    finish_command,
    kill_one,
    killed_command,
    newest_step,
    start_command,
    training_workers,
)
from tests.integration.fault_record import FaultRecord, recovery_seconds
from tests.integration.test_fault_tolerance import command_of

FAULTS = int(os.environ.get("HBT_FAULT_NIGHT", "0"))
SEED = int(os.environ.get("HBT_FAULT_SEED", "0"))
STEPS_BETWEEN = 25  # faults, at least
STEPS_OF_REFUSAL = 80  # at least; a second command on the folder is refused within them
pytestmark = pytest.mark.skipif(not FAULTS, reason="takes an hour or more: set HBT_FAULT_NIGHT to the number of faults")


@dataclass
class Training:
    """A training of two workers, whose command is called again when a fault ends it.

    Attributes:
        words: of the command, without --out.
        out: the run's folder.
        draw: of random numbers.
        dying: the processes that the latest fault ends.
    """

    words: list[object]
    out: Path
    draw: random.Random
    dying: list[psutil.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.call()

    def call(self) -> None:
        self.command = start_command([*self.words, "--out", self.out])

    def step(self) -> int:
        return newest_step(self.out)

    def has_ended(self) -> bool:
        return self.command.poll() is not None

    def kill_process(self, name: str) -> None:
        """Kill a process of the training, which restarts its workers."""
        self.dying = training_workers()
        while not kill_one(name) and not self.has_ended():
            time.sleep(0.01)

    def kill_feed(self) -> None:
        """Kill a task that builds batches. It may have built all that are left."""
        kill_one("MapBatches")

    def kill_command(self) -> None:
        self.dying = training_workers()
        os.killpg(self.command.pid, signal.SIGKILL)
        self.command.communicate(timeout=60)
        self.call()

    def kill_and_move(self) -> None:
        self.dying = training_workers()
        os.killpg(self.command.pid, signal.SIGKILL)
        self.command.communicate(timeout=60)
        psutil.wait_procs(self.dying, timeout=60)
        self.out = self.out.rename(self.out.with_name(f"{self.out.name}-moved"))
        self.call()

    def damage_checkpoint(self) -> None:
        """Kill the command, and change a byte of the newest checkpoint."""
        self.dying = training_workers()
        os.killpg(self.command.pid, signal.SIGKILL)
        self.command.communicate(timeout=60)
        psutil.wait_procs(self.dying, timeout=60)
        file = self.out / f"checkpoints/step-{self.step():09d}/weights.safetensors"
        content = bytearray(file.read_bytes())
        content[self.draw.randrange(len(content))] ^= 1
        file.write_bytes(content)
        self.call()

    def stop_worker(self) -> None:
        worker = self.draw.choice(training_workers())
        worker.suspend()
        time.sleep(self.draw.uniform(0.5, 3))
        worker.resume()

    def call_second_command(self) -> None:
        finish_command(start_command([*self.words, "--out", self.out]), code=2)


IN_TRAINING: dict[str, Callable[[Training], None]] = {
    "worker killed": lambda training: training.kill_process("RayTrainWorker"),
    "controller killed": lambda training: training.kill_process("TrainController"),
    "data feed killed": Training.kill_feed,
    "driver killed": Training.kill_command,
    "driver killed, folder moved": Training.kill_and_move,
    "driver killed, checkpoint damaged": Training.damage_checkpoint,
    "worker stopped for a while": Training.stop_worker,
    "second command": Training.call_second_command,
}
COMMANDS = ("mine", "evaluate", "evaluate --shards 2", "pretrain", "search", "study")


def drawn_faults() -> list[str]:
    """Return the faults of the night."""
    return random.Random(SEED).choices([*IN_TRAINING, *COMMANDS], k=FAULTS)


def test_training_survives_a_night_of_random_faults(dashboard, tmp_path):
    faults = [fault for fault in drawn_faults() if fault in IN_TRAINING]
    draw = random.Random(SEED + 1)
    steps = STEPS_BETWEEN * (len(faults) + 1) + STEPS_OF_REFUSAL * (faults.count("second command") + 1)
    train = {"steps": steps, "checkpoint_every": 1, "max_failures": len(faults)}
    config = tiny_config(write_corpus(tmp_path), train=train | {"workers": 2}, tracking={"log_model": False})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    words: list[object] = ["train", "--config", tmp_path / "config.yaml"]
    reference = [*words, f"train.checkpoint_every={steps}", "--out", tmp_path / "reference"]
    finish_command(start_command(reference))
    training, lost, seconds = Training(words, tmp_path / "run", draw), [], []
    for number, fault in enumerate(faults):
        goal = training.step() + draw.randint(1, 20)
        while training.step() < goal and not training.has_ended():
            time.sleep(0.01)
        assert not training.has_ended(), f"the command ended before fault {number} ({fault})"
        training.dying, struck_s = [], time.monotonic()
        IN_TRAINING[fault](training)
        if not (recovered := recovery_seconds(training.step, struck_s, training.dying, training.has_ended)):
            lost.append((number, fault))
            training.call()
        seconds += recovered
        print(f"fault {number}: {fault}, after step {goal}: {recovered} s", flush=True)
    finish_command(training.command)
    weights = [(out / "model/model.safetensors").read_bytes() for out in (tmp_path / "reference", training.out)]
    fault = f"drawn over {len(IN_TRAINING)} kinds, in one training of two workers (seed {SEED})"
    FaultRecord(fault, "weights equal byte for byte", len(faults), seconds).write()
    print(dict(Counter(faults)))
    assert weights[0] == weights[1]
    assert not lost, "not recovered"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_survive_a_night_of_random_faults(dashboard, tmp_path, monkeypatch, command):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    times = drawn_faults().count(command)
    if not times:
        pytest.skip("none was drawn")
    words, patterns = command_of(command, tmp_path)
    folder, _, recovery_s = killed_command(words, tmp_path, times)
    assert contents(folder, patterns) == contents(tmp_path / "reference", patterns)
    FaultRecord(f"`hbt {command}` killed, called again", "files equal byte for byte", times, [recovery_s]).write()
