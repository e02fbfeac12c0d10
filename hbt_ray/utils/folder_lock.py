"""A lock of a folder, so that one command at a time writes it.

It is a `filelock.SoftFileLease`: the file `.<name>.lock` next to the folder has the holder's host, process and start,
and the holder renews it every RENEW_S seconds. It is taken over from a holder that is dead:

- on the same host, at once if the process has ended or its number was given to another one;
- otherwise, if the file was not renewed for LEASE_S seconds of the waiting process's monotonic clock. Clocks of hosts
  are not compared, so one that jumps does no harm.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from hbt_ray.errors import StorageError

LEASE_S = 120.0  # network file systems may show a renewal after a minute
RENEW_S = 5.0

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder while the block runs.

    Args:
        folder: need not exist; its parent is made.
        wait: for a holder to release it, for any time. Otherwise raise when the holder renews it.

    Raises:
        StorageError: another process holds it, `folder` is a file, or its parent cannot be written.
    """
    lock = SoftFileLease(lock_file(folder), lease_duration=LEASE_S, heartbeat_interval=RENEW_S, thread_local=False)
    try:
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{folder} is a file; write the name of a folder as --out")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder, wait)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{str(folder)!r} cannot be written ({reason}); write another --out") from error
    try:
        yield
    finally:
        lock.release()


def lock_file(folder: Path) -> Path:
    """Return the lock's file, next to the folder: a moved or copied folder is not locked."""
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def try_lock_folder(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder while the block runs, if no process that may be alive holds it; yield whether."""
    lock = SoftFileLease(lock_file(folder), lease_duration=LEASE_S, heartbeat_interval=RENEW_S, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _acquire(lock: SoftFileLease, folder: Path, wait: bool) -> None:
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
        return
    owner = lock.owner
    holder = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
    seen = _renewed_at(lock)
    if wait:
        logger.warning("%s is being made by %s; waiting for it", folder, holder)
    try:
        lock.acquire(cancel_check=None if wait else lambda: _renewed_at(lock) != seen, poll_interval=0.2)
    except Timeout:
        raise StorageError(f"{folder} is in use by {holder}; wait until it has ended, or write another --out") from None


def _renewed_at(lock: SoftFileLease) -> float | None:
    """Return the time of the last renewal; None when the lock was released."""
    with contextlib.suppress(OSError):
        return Path(lock.lock_file).stat().st_mtime
    return None
