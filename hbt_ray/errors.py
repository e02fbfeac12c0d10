"""Errors whose message is one sentence that names the problem and a way to resolve it.

The command line prints the message; with `HBT_DEBUG=1` it prints the traceback first.
"""

import errno
import traceback
from collections.abc import Iterator


class HbtError(Exception):
    """Base of every error that hbt_ray raises on purpose."""


class UserError(HbtError, ValueError):
    """An input that the user must correct."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class CorpusError(UserError):
    """A corpus or benchmark that cannot be read as configured, or has too many bad rows."""


class StoreError(HbtError):
    """A token store that is missing, incomplete, damaged, or made for other settings."""


class StorageError(HbtError):
    """A folder or object store that cannot be read or written."""


class CheckpointError(HbtError):
    """A checkpoint that is incomplete, damaged, or cannot be written."""


class TrainingDiverged(HbtError):
    """A loss or gradient that is not finite."""


class ClusterError(HbtError):
    """A Ray cluster that cannot be reached, lacks resources, or failed."""


class TrackingError(HbtError):
    """An MLflow store that cannot be reached or written."""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FULL = "No space left on device"  # as C, Arrow, Rust's libraries and Python say it


def full_disk_error(error: BaseException) -> StorageError | None:
    """Return the error for the user if an error is that of a full disk, or wraps one; None otherwise."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            written = f"{cause.filename} cannot be written" if cause.filename else "a file cannot be written"
            return StorageError(f"{written} ({cause.strerror}); free disk space, and run the same command again")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all that it wraps, outermost first; also those that Ray's errors hold."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [cause.__cause__, getattr(cause, "cause", None), *getattr(cause, "worker_failures", {}).values()]


def format_traceback(error: BaseException) -> str:
    """Format the traceback of an error and of its causes, with those that `raise ... from None` hides."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    return "".join(traceback.format_exception(error))
