"""Translation of Ray's exceptions to the error of hbt_ray that they wrap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.exceptions import RayError
from ray.train import TrainingFailedError

from hbt_ray.errors import ClusterError, HbtError, causes, full_disk_error


@contextlib.contextmanager
def unwrap_ray_errors(action: str) -> Iterator[None]:
    """Raise the `HbtError` of a task or worker instead of the exceptions that Ray wraps around it.

    Args:
        action: what was being done, such as "training", for the message.

    Raises:
        HbtError: the innermost one; StorageError if a disk is full; ClusterError if Ray failed for another reason.
    """
    try:
        yield
    except (RayError, TrainingFailedError, HbtError) as error:
        if wrapped := find_hbt_error(error) or full_disk_error(error):
            raise wrapped from None
        last_line = str(error).strip().splitlines()[-1]
        raise ClusterError(f"{action} failed: {last_line}; the workers' output is above") from error


def find_hbt_error(error: BaseException) -> HbtError | None:
    """Return the error of hbt_ray that an error wraps, without Ray's additions; None if it wraps none."""
    for cause in causes(error):
        if isinstance(cause, HbtError) and not isinstance(cause, RayError):
            return type(cause)(*cause.args)
    return None
