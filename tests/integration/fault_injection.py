"""Killing processes of the tests' cluster, and how far a run is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.integration.conftest import MARK


def processes_of_cluster(name: str) -> Iterator[psutil.Process]:
    """Yield the processes of the tests' cluster with `name` in their command line."""
    for process in psutil.process_iter(["cmdline"]):
        try:
            if name in " ".join(process.info["cmdline"] or ()) and MARK in process.environ():
                yield process
        except psutil.Error:
            continue


def kill_one(name: str) -> bool:
    """Send SIGKILL to one of them; return whether there was one."""
    for process in processes_of_cluster(name):
        process.kill()
        return True
    return False


def newest_step(out: Path) -> int:
    """Return the step of the newest complete checkpoint in a run's folder; 0 if there is none."""
    return max((int(p.parent.name[5:]) for p in out.glob("checkpoints/step-*/complete.json")), default=0)
