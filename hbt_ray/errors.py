"""Errors whose message is one sentence that names the problem and a way to resolve it.

The command line prints the message; with `HBT_DEBUG=1` it prints the traceback first.
"""

import traceback


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


def format_traceback(error: BaseException) -> str:
    """Format the traceback of an error and of its causes, with those that `raise ... from None` hides."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    return "".join(traceback.format_exception(error))
