"""The URI of the store, and checks that it answers."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from hbt_ray.config import TrackingConfig
from hbt_ray.errors import TrackingError, format_traceback
from hbt_ray.tracking import check_reachable, resolve_uri, server
from hbt_ray.tracking.server import check_host
from tests.helpers.ports import free_port

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_uri_is_configured_or_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    default = resolve_uri(TrackingConfig(), tmp_path / "runs" / "a")
    assert default == resolve_uri(TrackingConfig(), tmp_path / "runs" / "b") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert resolve_uri(TrackingConfig(), tmp_path) == "http://tracking:5000"
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(TrackingConfig(uri="sqlite:///mine.db"), tmp_path) == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_missing_server_is_reported_within_seconds(scheme: str):
    start = time.monotonic()
    message = r"answers at .*\*\*\*@127.0.0.1:\d+/db \(Connection refused\).* set tracking.uri"
    with pytest.raises(TrackingError, match=message) as caught:
        check_reachable(f"{scheme}://ada:pass@127.0.0.1:{free_port()}/db")
    assert time.monotonic() - start < 5
    assert "pass" not in str(caught.value)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_host_is_connected_to_unless_a_proxy_is(monkeypatch: pytest.MonkeyPatch, variable: str):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert check_host(f"http://127.0.0.1:{listening.getsockname()[1]}")
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(variable, "http://proxy:3128")
    assert not check_host(uri)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(TrackingError, match="no MLflow server answers at"):
        check_host(uri)


MALFORMED = ["http://localhost:50o0", "postgresql://ada:pa#ss@h:5432/db", "http://[::1"]


@pytest.mark.parametrize("uri", MALFORMED)
def test_malformed_address_is_refused_and_not_shown(uri: str):
    with pytest.raises(TrackingError, match=r"host or port .* cannot be read; correct tracking.uri") as caught:
        check_reachable(uri)
    shown = format_traceback(caught.value)
    assert not any(part in shown for part in ("50o0", "'pa'", "ss@h", "::1"))


def test_server_that_hangs_up_is_reported_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(20):
                with contextlib.suppress(OSError):
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(
            TrackingError, match=r"^no MLflow server answers at .* \(the connection was cut\); start it"
        ):
            check_reachable(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_server_that_never_replies_is_reported_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    assert server.TIMEOUT_S <= 5
    monkeypatch.setattr(server, "TIMEOUT_S", 1)
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(TrackingError, match="timed out"):
        check_reachable(f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert 1 <= time.monotonic() - start < 3


def test_file_that_is_no_store_is_refused_and_not_changed(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("a reader's notes")
    with pytest.raises(TrackingError, match="not a SQLite file"):
        check_reachable(f"sqlite:///{tmp_path}/notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "a reader's notes"
    with pytest.raises(TrackingError, match="cannot be written"):
        check_reachable(f"sqlite:///{tmp_path}/notes.txt/mlflow.db")


def test_empty_file_becomes_a_store(tmp_path: Path, create_mlflow_tables, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_create_sqlite", create_mlflow_tables)
    (tmp_path / "mlflow.db").touch()
    check_reachable(f"sqlite:///{tmp_path}/mlflow.db")
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_locked_store_is_one_sentence_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "TIMEOUT_S", 0.2)
    check_reachable(f"sqlite:///{tmp_path}/mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            TrackingError, match=r"mlflow\.db cannot be written \(database is locked\); end the program"
        ):
            check_reachable(f"sqlite:///{tmp_path}/mlflow.db")
    check_reachable(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    "error", [OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")), OSError(28, "full")]
)
def test_full_disk_is_one_sentence(error: Exception):
    message = r"^cannot log metrics in MLflow at sqlite:///a.db \(No space left on device\); free disk space$"
    with pytest.raises(TrackingError, match=message), server.mlflow_errors("sqlite:///a.db", "log metrics"):
        raise error


@pytest.mark.parametrize("name", ["100%", "a%20b", "why?", "a?b=c"])
def test_folder_whose_name_mlflow_misreads_is_refused(tmp_path: Path, name: str):
    uri = resolve_uri(TrackingConfig(), tmp_path / name / "run")
    with pytest.raises(TrackingError, match=r"MLflow misreads % and \? in the path of its store, .*; write another"):
        check_reachable(uri)
    assert list(tmp_path.iterdir()) == []


def test_short_timeouts_of_two_threads_may_overlap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    second_entered, first_left = threading.Event(), threading.Event()
    during: list[str | None] = []

    def second_user() -> None:
        with server.short_timeouts():
            second_entered.set()
            assert first_left.wait(10)
            during.append(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES"))

    thread = threading.Thread(target=second_user)
    with server.short_timeouts():
        thread.start()
        assert second_entered.wait(10)
    first_left.set()
    thread.join(10)

    assert during == ["0"]  # the first user's exit leaves the second one's limits in place
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
