"""Errors that a user can resolve: each message is one sentence with the way out."""


class UserError(ValueError):
    """An error that the user can resolve. The command line prints it without a traceback."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class CorpusError(UserError):
    """A corpus or benchmark that cannot be read as configured, or holds too many bad rows."""


class StoreError(UserError):
    """A token store that is missing, incomplete, damaged, or made for other settings."""


class StorageError(UserError):
    """A folder or object store that cannot be read or written."""


class CheckpointError(UserError):
    """A checkpoint that is torn, was changed, or cannot be written."""


class TrainingDiverged(UserError):
    """A loss or gradient that is not finite."""


class ClusterError(UserError):
    """Resources that the Ray cluster does not have and will not get."""


class TrackingError(UserError):
    """An MLflow store that cannot be reached or written."""
