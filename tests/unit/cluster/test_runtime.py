from __future__ import annotations

import json
import os
import re
import signal
from types import SimpleNamespace
from unittest import mock

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from hbt_ray.cluster import runtime
from hbt_ray.errors import ClusterError
from hbt_ray.utils.limits import DEFAULTS

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


@pytest.mark.parametrize(
    ("address", "of_job", "sent"),
    [
        (None, {}, {}),
        ("head:6379", {}, {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "HBT_LOG_LEVEL": "info"}),
        ("head:6379", {"HBT_LOG_LEVEL": "info"}, {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}),  # Ray refuses it twice
    ],
)
def test_tasks_without_a_gpu_see_none(monkeypatch, address, of_job, sent):
    fail(monkeypatch, None)
    options: dict[str, object] = {}
    with mock.patch.dict(os.environ, {"HBT_LOG_LEVEL": "info"}):
        os.environ.pop("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", None)
        if address:
            os.environ["RAY_ADDRESS"] = address
        os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": {"env_vars": of_job}})
        monkeypatch.setattr(runtime.ray, "init", lambda **given: options.update(given))
        runtime.connect()
        assert os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "1"  # inherited by a local cluster's processes
    assert options.get("runtime_env", {"env_vars": {}}) == {"env_vars": sent}


@pytest.mark.parametrize("variable", DEFAULTS)
def test_limits_of_what_is_read_reach_a_running_cluster(monkeypatch, variable):
    fail(monkeypatch, None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv(variable, "500")
    options: dict[str, dict[str, dict[str, str]]] = {}
    monkeypatch.setattr(runtime.ray, "init", lambda **given: options.update(given))
    runtime.connect()
    assert options["runtime_env"]["env_vars"][variable] == "500"


def test_home_that_cannot_be_written_is_one_sentence(monkeypatch):
    calls = fail(monkeypatch, NotADirectoryError(20, "Not a directory", "/dev/null/.ray"))
    with pytest.raises(ClusterError, match=r"Ray cannot start .*/dev/null/\.ray.*; it writes below HOME"):
        runtime.connect()
    assert calls == ["local"]


@pytest.mark.parametrize(
    ("line", "is_skipped"),
    [
        ("[2026-11-30 04:55:54,107 E 6277 6340] core_worker.cc:2465: Actor with class name: 'A'", True),
        ("[2026-11-30 04:55:54,107 C 6277 6340] core_worker.cc:2465: Check failed", False),
        ("step 3 has taken 7 s: rank 0 is in save", False),
        ("[2026-11-30 04:55:54,107 E 6277 6340] reader.py:12: failed", False),
    ],
)
def test_log_lines_of_rays_own_code_are_not_printed(line: str, is_skipped: bool):
    assert bool(re.search(os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"], line)) == is_skipped


@pytest.mark.parametrize("before", [{}, {"RAY_ADDRESS": "ray://head:10001"}])
def test_processes_of_a_training_are_told_their_cluster(monkeypatch, before):
    """Without, Ray Train asks any cluster of the machine whether the training is alive."""
    told = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runtime.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(
        DataParallelTrainer,
        "_initialize_and_run_controller",
        lambda self: told.update(runtime.train_constants.get_env_vars_to_propagate()),
    )
    runtime.WorkerGroupTrainer(lambda: None)._initialize_and_run_controller()
    assert told["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert {name: os.environ[name] for name in os.environ if name == "RAY_ADDRESS"} == before


@pytest.mark.parametrize("of_abort", [None, ActorDiedError(), GetTimeoutError()])
def test_interrupted_training_leaves_no_process(monkeypatch, of_abort):
    """Ray Train would end as if the training had succeeded; in a thread, it would leave controller and workers."""
    calls: list[object] = []
    controller = mock.Mock()
    controller.run.remote.return_value = "run"
    controller.abort.remote.return_value = "abort"
    remaining = [True, True, False]

    def get(reference: str, timeout: float | None = None) -> None:
        calls.append((reference, timeout))
        if reference == "run":
            raise KeyboardInterrupt
        if of_abort:
            raise of_abort

    context = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: "node")
    monkeypatch.setattr(runtime.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(runtime.ray, "remote", lambda **_: lambda _: mock.Mock(remote=lambda: controller))
    monkeypatch.setattr(runtime.ray, "get", get)
    monkeypatch.setattr(runtime.ray, "kill", lambda actor: calls.append(("kill", actor)))
    monkeypatch.setattr(runtime, "_has_processes", lambda _: remaining.pop(0))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        runtime.WorkerGroupTrainer(lambda: None)._initialize_and_run_controller()
    assert calls == [("run", None), ("abort", runtime.END_S), ("kill", controller)]
    assert remaining == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_wait_for_processes_of_a_training_is_bounded(monkeypatch):
    monkeypatch.setattr(runtime, "END_S", 0.2)
    monkeypatch.setattr(runtime.ray, "get", mock.Mock())
    monkeypatch.setattr(runtime.ray, "kill", mock.Mock())
    monkeypatch.setattr(runtime, "_has_processes", lambda _: True)
    runtime.end_controller(mock.Mock())
