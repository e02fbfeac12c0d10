from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hbt_ray.errors import StorageError
from hbt_ray.utils import folder_lock
from hbt_ray.utils.folder_lock import lock_file, lock_folder, try_lock_folder
from tests.helpers.paths import REPOSITORY


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(folder_lock, "RENEW_S", 0.1)
    monkeypatch.setattr(folder_lock, "LEASE_S", 0.6)


def write_marker(folder: Path, pid: int, host: str = socket.gethostname(), start: int = 1) -> None:
    """Write the lock's file as a holder that does not renew it."""
    lock_file(folder).write_text(
        f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=ab\nduration={folder_lock.LEASE_S!r}\nstart={start}\n"
    )


def lock_in_thread(folder: Path, seconds: float) -> threading.Thread:
    held = threading.Event()

    def hold() -> None:
        with lock_folder(folder):
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    return thread


def test_second_holder_is_refused_by_host_and_process(tmp_path):
    holder = lock_in_thread(tmp_path / "run", 1)
    with try_lock_folder(tmp_path / "run") as locked:
        assert not locked
    with pytest.raises(StorageError, match=rf"run is in use by process \d+ on {socket.gethostname()}; wait until"):
        lock_folder(tmp_path / "run").__enter__()
    holder.join()
    with try_lock_folder(tmp_path / "run") as locked:
        assert locked
    assert list(tmp_path.iterdir()) == []


def test_waiting_holder_takes_a_released_lock(tmp_path):
    holder = lock_in_thread(tmp_path / "store", 0.4)
    with lock_folder(tmp_path / "store", wait=True):
        assert not holder.join(1)
        assert not holder.is_alive()


def test_lock_of_a_dead_process_is_taken_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "LEASE_S", 1000.0)
    code = f"""
import os, pathlib
from hbt_ray.utils import folder_lock
folder_lock.LEASE_S = 1000.0
with folder_lock.lock_folder(pathlib.Path({str(tmp_path / "run")!r})):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert lock_file(tmp_path / "run").exists()
    with lock_folder(tmp_path / "run"):
        pass


def test_lock_of_a_reused_process_number_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "LEASE_S", 1000.0)
    write_marker(tmp_path / "run", pid=1, start=12345)  # a process with this number exists, with another start
    with lock_folder(tmp_path / "run"):
        pass


def test_lock_of_another_host_is_taken_when_it_is_not_renewed(tmp_path):
    write_marker(tmp_path / "run", pid=1, host="elsewhere")
    began_s = time.monotonic()
    with lock_folder(tmp_path / "run"):
        assert time.monotonic() - began_s >= 0.6


def test_file_as_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match="run is a file; write the name of a folder as --out"):
        lock_folder(tmp_path / "run").__enter__()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_impossible_name_is_one_sentence(tmp_path, name):
    with pytest.raises(StorageError, match=r"cannot be written .*; write another --out"):
        lock_folder(tmp_path / name).__enter__()
