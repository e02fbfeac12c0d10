"""Ray's wrapped exceptions, told as the mistake or the failure they carry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.exceptions import RayError
from ray.train.v2.api.exceptions import TrainingFailedError

from hbt_ray.errors import ClusterError, UserError


@contextlib.contextmanager
def unwrap_ray_errors(doing: str) -> Iterator[None]:
    """Raises the user's mistake that a task or worker met in place of what Ray wrapped around it.

    Raises:
        UserError: the innermost one; ClusterError where Ray failed for another reason.
    """
    try:
        yield
    except (RayError, TrainingFailedError, UserError) as error:
        if mistake := find_user_error(error):
            raise mistake from None
        last_line = str(error).strip().splitlines()[-1]
        raise ClusterError(f"{doing} failed: {last_line}; the workers' own words stand above") from error


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake that an error carries, without what Ray made of it; None where there is none."""
    for cause in _causes(error):
        if isinstance(cause, UserError) and not isinstance(cause, RayError):
            return type(cause)(*cause.args)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, outermost first."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [cause.__cause__, getattr(cause, "cause", None), *getattr(cause, "worker_failures", {}).values()]
