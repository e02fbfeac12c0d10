"""Killing commands and processes of the tests' cluster, how far a run is, and what it wrote."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from hbt_ray.mining import MINED
from hbt_ray.utils.digests import without_checksum
from tests.helpers.paths import REPOSITORY
from tests.integration.conftest import MARK

TIMES = int(os.environ.get("HBT_FAULT_TIMES", "0"))  # how often each fault is injected
COMMAND_S = 600  # in which a command must end
injects_faults = pytest.mark.skipif(
    not TIMES, reason="takes minutes: set HBT_FAULT_TIMES to how often each fault is injected"
)


def processes_of_cluster(name: str) -> Iterator[psutil.Process]:
    """Yield the processes of the tests' cluster with `name` in their command line."""
    for process in psutil.process_iter(["cmdline"]):
        try:
            if name in " ".join(process.info["cmdline"] or ()) and MARK in process.environ():
                yield process
        except psutil.Error:
            continue


def training_workers() -> list[psutil.Process]:
    """Return the processes of the training's ranks."""
    return list(processes_of_cluster("RayTrainWorker"))


def kill_one(name: str) -> bool:
    """Send SIGKILL to one of them; return whether there was one."""
    for process in processes_of_cluster(name):
        process.kill()
        return True
    return False


def newest_step(out: Path) -> int:
    """Return the step of the newest complete checkpoint in a run's folder; 0 if there is none."""
    return max((int(p.parent.name[5:]) for p in out.glob("checkpoints/step-*/complete.json")), default=0)


def losses(uri: str, out: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of each step as MLflow has it; a step that was repeated is there twice."""
    run_id = (out / "mlflow_run_id").read_text().strip()
    history = MlflowClient(uri).get_metric_history(run_id, "train/loss")
    return [(metric.step, metric.value) for metric in history]


def repeated_steps(uri: str, out: Path, steps: int) -> int:
    """Return how many steps MLflow has twice; it must have each of `steps` steps."""
    logged = [step for step, _ in losses(uri, out)]
    assert set(logged) == set(range(1, steps + 1)), "a step is missing"
    return len(logged) - steps


class ForkedCommand:
    """`hbt WORDS` in a new process group, forked from a process that has imported `preloaded`.

    As a process of its own it would import for ten seconds of a core. The methods are those of `subprocess.Popen`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._errors = tempfile.NamedTemporaryFile("rb")  # noqa: SIM115
        self._process = _FORKS.Process(target=_become_command, args=(words, dict(os.environ), self._errors.name))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[None, bytes]:
        """Wait for it, at most `timeout` seconds; return its stderr."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("hbt", timeout)
        return None, self._errors.read()

    @property
    def returncode(self) -> int | None:
        return self.poll()


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.integration.preloaded"])


def _become_command(words: Sequence[str], environment: dict[str, str], errors: str) -> None:
    os.setsid()
    os.chdir(REPOSITORY)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    from hbt_ray.cli import main

    try:
        main(list(words), prog_name="hbt")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


AnyCommand = ForkedCommand | subprocess.Popen


def start_command(words: Sequence[object], prefix: Sequence[str] = (), env: dict[str, str] | None = None) -> AnyCommand:
    """Start `hbt WORDS` in a process group of its own.

    Args:
        words: of the command.
        prefix: words of a command that runs it.
        env: its environment; None: that of this process.
    """
    if env is None and not prefix:
        return ForkedCommand([str(word) for word in words])
    command = [*prefix, sys.executable, "-m", "hbt_ray.cli", *map(str, words)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=REPOSITORY, env=env, start_new_session=True, **pipes)


def finish_command(process: AnyCommand, code: int = 0) -> str:
    """Wait for a command, whose exit code must be `code`; return its stderr."""
    errors = process.communicate(timeout=COMMAND_S)[1].decode()
    assert process.returncode == code, errors
    return errors


def finish_or_refuse(process: AnyCommand) -> None:
    """Wait for a command, which may find that the run was finished when it was killed."""
    errors = process.communicate(timeout=COMMAND_S)[1].decode()
    assert process.returncode == 0 or (process.returncode == 2 and "this run is finished" in errors), errors


def kill_command(process: AnyCommand) -> bool:
    """Send SIGKILL to a command's process group; return whether it was there."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def killed_command(
    words: Sequence[object],
    out: Path,
    times: int,
    inject: Callable[[AnyCommand], bool] = kill_command,
    deleted_before: Path | None = None,
    relocate: Callable[[Path], Path] | None = None,
) -> tuple[Path, int, float]:
    """Call a command undisturbed, and for another folder with faults at random moments of its time.

    Args:
        words: of the command, without its folder.
        out: where both folders are made.
        times: number of faults.
        inject: injects a fault and returns whether it did.
        deleted_before: a folder that is deleted before each call with a fault.
        relocate: called with the folder after each fault; returns the folder of the next call.

    Returns:
        The folder of the calls with faults, the last of which was not disturbed; how many ended before their fault; and
        the seconds from the last fault to the end of the last call.
    """
    finish_command(start_command(["--help"]))  # the first one waits for the imports
    began_s = time.monotonic()
    finish_command(start_command([*words, "--out", out / "reference"]))
    seconds = time.monotonic() - began_s
    draw, folder, injected, too_late, struck_s = random.Random(7), out / "faulty", 0, 0, began_s
    while injected < times:
        if deleted_before is not None:
            shutil.rmtree(deleted_before, ignore_errors=True)
        process = start_command([*words, "--out", folder])
        due_s = time.monotonic() + draw.uniform(0.2, 0.95) * seconds
        while process.poll() is None and time.monotonic() < due_s:
            time.sleep(0.01)
        struck = False
        while process.poll() is None and not (struck := inject(process)):
            time.sleep(0.01)
        if not struck:
            finish_or_refuse(process)
            too_late += 1
            shutil.rmtree(folder)  # a finished run is not run again
            continue
        injected += 1
        struck_s = time.monotonic()
        process.communicate(timeout=COMMAND_S)
        if relocate is not None:
            folder = relocate(folder)
    finish_or_refuse(start_command([*words, "--out", folder]))
    return folder, too_late, time.monotonic() - struck_s


def contents(folder: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of files; of reports and summaries without date, seconds and their checksums."""
    found = {}
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        content = file.read_bytes()
        if file.name in {"report.json", MINED}:
            data = without_checksum(content)
            data.pop("seconds", None)
            if file.name == "report.json":
                del data["files"], data["date"]
            for of_language in data.get("languages", {}).values():
                of_language.pop("seconds", None)
            content = json.dumps(data).replace(str(folder), "").encode()
        found[str(file.relative_to(folder))] = content
    assert found
    assert not list(folder.rglob("*.partial")), "a temporary file is left"
    return found
