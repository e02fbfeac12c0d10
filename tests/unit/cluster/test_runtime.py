from __future__ import annotations

import pytest

from hbt_ray.cluster import runtime
from hbt_ray.errors import ClusterError

TIMED_OUT = Exception("The current node timed out during startup. This could happen because\nthe machine is busy.")


def fail(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[str]:
    """Let `ray.init` raise these errors, one a call; return the list of the addresses it is called with."""
    calls: list[str] = []
    remaining = list(errors)

    def init(address: str, **_: object) -> None:
        calls.append(address)
        if (error := remaining.pop(0)) is not None:
            raise error

    monkeypatch.setattr(runtime.ray, "init", init)
    monkeypatch.setattr(runtime.ray, "shutdown", lambda: None)
    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(runtime, "node_resources", lambda _: [])
    monkeypatch.setattr(runtime, "_forget_dead_cluster", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def test_cluster_that_starts_late_is_started_again(monkeypatch, caplog):
    calls = fail(monkeypatch, TIMED_OUT, None)
    runtime.connect()
    assert calls == ["local", "local"]
    assert "Ray did not start (The current node timed out during startup." in caplog.text


def test_cluster_that_never_starts_is_one_sentence(monkeypatch):
    fail(monkeypatch, TIMED_OUT, TIMED_OUT)
    with pytest.raises(ClusterError, match=r"did not start on this machine, twice \(The current node .*\); run the"):
        runtime.connect()


def test_cluster_of_an_address_is_tried_once(monkeypatch):
    calls = fail(monkeypatch, ConnectionError("no one there"))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ClusterError, match=r"cannot join the Ray cluster head:6379 \(no one there\)"):
        runtime.connect()
    assert calls == ["head:6379"]


def test_home_that_cannot_be_written_is_one_sentence(monkeypatch):
    calls = fail(monkeypatch, NotADirectoryError(20, "Not a directory", "/dev/null/.ray"))
    with pytest.raises(ClusterError, match=r"Ray cannot start .*/dev/null/\.ray.*; it writes below HOME"):
        runtime.connect()
    assert calls == ["local"]
