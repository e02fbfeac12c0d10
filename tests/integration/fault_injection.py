"""What tests that kill need: whom to kill, and how far a run has come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.integration.conftest import MARK


def processes_of_cluster(name: str) -> Iterator[psutil.Process]:
    """The processes of the tests' own cluster with a name in their command line."""
    for process in psutil.process_iter(["cmdline"]):
        try:
            if name in " ".join(process.info["cmdline"] or ()) and MARK in process.environ():
                yield process
        except psutil.Error:
            continue


def kill_one(name: str) -> bool:
    """Sends SIGKILL to one of them; whether there was one."""
    for process in processes_of_cluster(name):
        process.kill()
        return True
    return False


def newest_step(out: Path) -> int:
    """The step of the newest complete checkpoint in a run's folder; 0 where there is none."""
    return max((int(p.parent.name[5:]) for p in out.glob("checkpoints/step-*/complete.json")), default=0)
