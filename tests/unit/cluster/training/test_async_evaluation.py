from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

from hbt_ray.cluster.training import async_evaluation
from hbt_ray.cluster.training.messages import CheckpointMetrics, Notice
from hbt_ray.errors import StoreError


class Remote:
    """A function or method as Ray's, called at once; `get` raises what it raised."""

    def __init__(self, function) -> None:
        self.function = function

    def options(self, **_) -> Remote:
        return self

    def remote(self, *arguments):
        return lambda: self.function(*arguments)


def get(reference):
    return [one() for one in reference] if isinstance(reference, list) else reference()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, ""),
        (WorkerCrashedError(), "The worker died unexpectedly"),
        (
            RayTaskError("f", "Traceback\nStoreError: damaged", StoreError("the store is damaged")),
            "the store is damaged",
        ),
        (RayTaskError("f", "Traceback\nKeyError: 'a'", KeyError("a")), "KeyError: 'a'"),
    ],
)
def test_evaluation_that_dies_costs_a_notice(monkeypatch, error: RayError | None, reason: str):
    """The death of its process failed a training that had ended, and each later call of it."""
    messages: list[CheckpointMetrics | Notice] = []
    evaluated: list[int] = []

    def evaluate(*_) -> dict[str, float]:
        if error is not None:
            raise error
        return {"map": 0.5}

    monkeypatch.setattr(async_evaluation, "_evaluate", evaluate)
    monkeypatch.setattr(async_evaluation, "ray", SimpleNamespace(remote=Remote, get=get))
    channel = SimpleNamespace(put=Remote(messages.append), put_evaluated=Remote(evaluated.append))
    found = async_evaluation.evaluate_checkpoint(None, 5, SimpleNamespace(channel=channel), {"num_cpus": 0})
    assert evaluated == [5]
    [message] = messages
    if error is None:
        assert message == CheckpointMetrics(5, found)
        assert found == {"map": 0.5}
    else:
        assert found == {}
        assert isinstance(message, Notice)
        assert message.text.startswith(f"step 5 was not evaluated: {reason}")
        assert message.text.endswith("; the run continues without its metrics")
