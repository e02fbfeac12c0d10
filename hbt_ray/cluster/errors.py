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
        raise ClusterError(f"{action} failed: {failure_reason(error)}; the workers' output is above") from error


def failure_reason(error: BaseException) -> str:
    """Return why Ray says that a process failed, in one line: lack of memory by name, else its text's last line."""
    texts = [str(cause) for cause in causes(error)]
    if any("memory issue" in text or "low on memory" in text for text in texts):
        return (
            "Ray ended a process because its machine ran low on memory; use fewer workers or smaller chunks, or a "
            "machine with more memory"
        )
    if any("OOM killer" in text for text in texts):
        return "a process was killed or crashed; its machine's log (dmesg) says whether for lack of memory"
    return (texts[0].strip().splitlines() or [type(error).__name__])[-1]


def find_hbt_error(error: BaseException) -> HbtError | None:
    """Return the error of hbt_ray that an error wraps, without Ray's additions; None if it wraps none."""
    for cause in causes(error):
        if isinstance(cause, HbtError) and not isinstance(cause, RayError):
            return type(cause)(*cause.args)
    return None
