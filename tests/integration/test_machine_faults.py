"""Faults of the machine: a clock that jumps, a small shared memory, too little memory; and a second command.

Each fault is injected `HBT_FAULT_TIMES` times; see `test_fault_tolerance.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hbt_ray.config import dump_config
from tests.helpers.ports import free_port
from tests.integration.conftest import MARK, tiny_config, write_corpus
from tests.integration.fault_injection import (
    TIMES,
    AnyCommand,
    finish_command,
    injects_faults,
    newest_step,
    processes_of_cluster,
    repeated_steps,
    start_command,
)
from tests.integration.fault_record import FaultRecord, recovery_seconds
from tests.integration.test_fault_tolerance import command_of

pytestmark = injects_faults
STEPS = 60
FAKETIME = sorted(
    [*Path(os.environ.get("HBT_LIBFAKETIME", "/none")).parent.glob("libfaketimeMT.so.1")]
    or Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
)


def training(folder: Path, steps: int = STEPS, **train) -> list[object]:
    """Return the words of a training with a checkpoint at every second step, without --out."""
    settings = {"steps": steps, "checkpoint_every": 2, "max_failures": 20} | train
    config = tiny_config(write_corpus(folder), train=settings, tracking={"log_model": False})
    (folder / "config.yaml").write_text(dump_config(config))
    return ["train", "--config", folder / "config.yaml", "--out"]


def model_of(out: Path) -> bytes:
    return (out / "model/model.safetensors").read_bytes()


def reference_of(words: list[object], folder: Path) -> bytes:
    finish_command(start_command([*words, folder / "reference"]))
    return model_of(folder / "reference")


def long_training(folder: Path, steps: int) -> tuple[list[object], Path, bytes]:
    """Return the words of a long training, the folder that it is to be called with, and its undisturbed weights."""
    words = training(folder, steps)
    return words, folder / "run", reference_of(words, folder)


def wait_for_step(out: Path, step: int, process: AnyCommand) -> None:
    while newest_step(out) < step and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the command ended before its fault"


def own_cluster() -> dict[str, str]:
    """Return the environment of a command that starts a cluster of its own."""
    return {key: value for key, value in os.environ.items() if key not in {"RAY_ADDRESS", MARK}}


def test_second_command_on_a_folder_is_refused_and_harms_nothing(dashboard, tmp_path):
    steps = 80 * (TIMES + 1)  # at least; a second command ends within them
    words, out, expected = long_training(tmp_path, steps)
    first, draw, struck_at = start_command([*words, out]), random.Random(13), []
    for time_ in range(TIMES):
        wait_for_step(out, newest_step(out) + draw.randint(1, 20), first)
        struck_at.append(newest_step(out))
        errors = finish_command(start_command([*words, out, *(["--fresh"] if time_ % 2 else [])]), code=2)
        assert f"{out} is in use by process {first.pid} on" in errors
        assert first.poll() is None, "the first command ended before the second was refused"
    finish_command(first)
    assert model_of(out) == expected
    assert repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out, steps) == 0
    print(f"\nsecond command: {TIMES} refused, after steps {struck_at}")


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed; HBT_LIBFAKETIME names it elsewhere")
def test_clock_that_jumps_a_day_changes_nothing(dashboard, tmp_path):
    """All processes of a cluster see the clock of a file, which jumps forwards and backwards by a day and more."""
    steps = 160 * (TIMES + 1)
    words, out, expected = long_training(tmp_path, steps)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1"}
    # The clock of waits, and of files: a jump of the real clock moves neither.
    faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    environment = own_cluster() | faked
    running, draw, jumps = start_command([*words, out], env=environment), random.Random(17), []
    for time_ in range(TIMES):
        wait_for_step(out, newest_step(out) + draw.randint(1, 20), running)
        clock.write_text(f"{'-' if time_ % 2 else '+'}{1 + time_ // 2}d")
        jumps.append((clock.read_text(), newest_step(out)))
        errors = finish_command(start_command([*words, out], env=environment), code=2)
        assert f"{out} is in use by process {running.pid} on" in errors
    finish_command(running)
    assert model_of(out) == expected
    assert repeated_steps(f"sqlite:///{tmp_path}/mlflow.db", out, steps) == 0
    print(f"\nclock: {TIMES} jumps (to, after step) {jumps}")


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "evaluate --shards 2", "mine"])
def test_small_shared_memory_is_enough(dashboard, tmp_path, command):
    """/dev/shm has 64 MB, as in a container of Docker; Ray then keeps its objects in /tmp."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    words, _ = command_of(command, tmp_path)
    prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    errors = finish_command(start_command([*words, "--out", tmp_path / "out"], prefix=prefix, env=own_cluster()))
    print(f"\n64 MB of /dev/shm, {command}: {errors.strip().splitlines()[-3:]}")


def test_worker_killed_by_rays_memory_monitor_is_named(dashboard, tmp_path):
    words = training(tmp_path, max_failures=0)
    low = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50"}
    errors = finish_command(start_command([*words, tmp_path / "out"], env=own_cluster() | low), code=2)
    print(f"\nRay's memory monitor: {errors}")
    assert "memory" in errors.strip().splitlines()[-1]


@pytest.fixture
def tiny_memory(tmp_path) -> Iterator[Path]:
    """Return a control group whose processes are killed when they need more memory; skip where there is none."""
    group = Path(f"/sys/fs/cgroup/memory/{tmp_path.name}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2**20))
    except OSError:
        pytest.skip("this user cannot make a control group with a limit of memory")
    yield group
    group.rmdir()


def test_worker_killed_by_the_kernel_for_memory_is_replaced_and_named(cluster, tmp_path, tiny_memory):
    words, out = training(tmp_path, steps=STEPS * 5), tmp_path / "run"
    expected = reference_of(words, tmp_path)
    running, draw, struck_at = start_command([*words, out]), random.Random(19), []
    for _ in range(TIMES):
        wait_for_step(out, newest_step(out) + draw.randint(1, 20), running)
        struck_at.append(newest_step(out))
        worker = next(processes_of_cluster("RayTrainWorker"))
        (tiny_memory / "cgroup.procs").write_text(str(worker.pid))
        worker.wait(60)
    errors = finish_command(running)
    print(f"\nkilled for memory after steps {struck_at}: {errors}")
    assert errors.count("memory") >= TIMES
    assert model_of(out) == expected


HEAD = "HBT_TEST_HEAD"  # in the environment of all processes of a head


@pytest.fixture
def heads() -> Iterator[Heads]:
    """Return clusters of `ray start --head`, one after another; the last one is killed at the end."""
    heads = Heads()
    yield heads
    heads.kill()


class Heads:
    """A cluster of one node, as a job of Kubernetes has it: all of its processes end with the node."""

    def __init__(self) -> None:
        self.number = 0

    def start(self) -> dict[str, str]:
        """Start a cluster; return the environment of its commands."""
        self.number += 1
        address = f"127.0.0.1:{free_port()}"
        environment = own_cluster() | {"RAY_AUTH_MODE": "token", HEAD: str(self.number)}
        command = ["ray", "start", "--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=2"]
        command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        return environment | {"RAY_ADDRESS": address}

    def kill(self) -> None:
        """Kill every process of the cluster and every command on it."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(HEAD) == str(self.number):
                    # Ray's agents write their titles over their environments.
                    found.update([process, *process.children(recursive=True)])
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()


def test_job_resumes_on_another_cluster_when_its_head_dies(dashboard, heads, tmp_path):
    words, out, expected = long_training(tmp_path, 40 * (TIMES + 1))
    draw, died_after = random.Random(19), []
    recovery_s: list[float] = []
    running = start_command([*words, out], env=heads.start())
    for _ in range(TIMES):
        wait_for_step(out, newest_step(out) + draw.randint(1, 20), running)
        struck_s = time.monotonic()
        heads.kill()
        running.communicate(timeout=60)
        died_after.append(newest_step(out))
        running = start_command([*words, out], env=heads.start())
        recovery_s += recovery_seconds(lambda: newest_step(out), struck_s, [], lambda r=running: r.poll() is not None)
    finish_command(running)
    assert model_of(out) == expected
    print(f"\nhead killed after steps {died_after}")
    fault = "a cluster's head killed with all its processes, the command called again on another cluster"
    FaultRecord(fault, "weights equal byte for byte", TIMES, recovery_s).write()
