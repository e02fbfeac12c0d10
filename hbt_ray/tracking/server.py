"""Find the MLflow store, check that it answers, and translate its errors to messages with a remedy.

A store is a SQLite file, a database or an MLflow server; its URI says which.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import socket
import sqlite3
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hbt_ray.config import TrackingConfig
from hbt_ray.errors import FULL, TrackingError, full_disk_error
from hbt_ray.tracking.presentation import VIEW, VIEW_TAG
from hbt_ray.utils.redaction import redact, redact_value

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_S = 4  # of a request to a store
ENVIRONMENT = {
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where git is not installed
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's default retries for minutes when a run ends without its server
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def resolve_uri(tracking: TrackingConfig, run_dir: Path) -> str:
    """Return the URI of the store: the configured one, else MLFLOW_TRACKING_URI, else a SQLite file.

    The file is `mlflow.db` in the parent of the run's folder, so that neighbouring runs share it. A relative SQLite
    path is made absolute, because other processes use it as well.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.absolute().parent}/mlflow.db"
    file = sqlite_file(uri)
    return f"sqlite:///{file.absolute()}{''.join(uri.partition('?')[1:])}" if file else uri


def check_reachable(uri: str) -> None:
    """Check within seconds that the store answers; create a SQLite store that does not exist.

    Raises:
        TrackingError: it cannot be reached or written, or is not MLflow, or the URI is none.
    """
    check_uri(uri)
    file = sqlite_file(uri)
    if file:
        _check_sqlite(uri, file)
    with mlflow_errors(uri, "read runs"), short_timeouts():
        if file and not (file.exists() and file.stat().st_size):
            _create_sqlite(file)
        _connect_once(uri)
        mlflow_client(uri).search_experiments(max_results=1)


def check_host(uri: str) -> bool:
    """Connect to a store's host, without importing MLflow, which takes seconds; return False if it has none.

    Raises:
        TrackingError: the host does not accept connections, or the URI is none.
    """
    check_uri(uri)
    try:
        return _connect_once(uri)
    except OSError as error:
        message = _error_message(uri, "read runs", error)
    raise TrackingError(message)  # without a cause, whose traceback would be written to a file


def check_uri(uri: str) -> None:
    """Raise TrackingError if the host or port of a URI cannot be read. It is not shown: it may hold a password."""
    is_read = True
    try:
        _ = urlsplit(uri).port
    except ValueError:  # which shows a part of the URI
        is_read = False
    if not is_read:
        raise TrackingError(
            "the host or port of the MLflow store cannot be read; correct tracking.uri or MLFLOW_TRACKING_URI, with "
            "%23, %2F and %40 for #, / and @ in a password"
        )


def ui_command(uri: str) -> str:
    """Return the command that shows the runs in MLflow's UI.

    >>> ui_command("sqlite:////data/runs/mlflow.db")
    'mlflow ui --backend-store-uri sqlite:////data/runs/mlflow.db'
    """
    if uri.startswith(("http://", "https://")):
        return f"open {redact_value(uri)}"
    return f"mlflow ui --backend-store-uri {shlex.quote(redact_value(uri))}"


def ui_guide(uri: str, experiment: str) -> str:
    """Return `ui_command`, and in a second line the address of an experiment's runs, if MLflow answers."""
    try:
        return f"{ui_command(uri)}\n         {experiment_link(uri, experiment)}"
    except TrackingError:
        return ui_command(uri)


def experiment_link(uri: str, experiment: str) -> str:
    """Return the address of an experiment's runs in the UI that `ui_command` starts, or of a server.

    Its `workflowType` opens the page on metrics and parameters instead of traces, its `viewStateShareKey` with the
    columns and charts of `presentation.save_runs_view`.
    """
    server = redact_value(uri).rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    with mlflow_errors(uri, "read experiments"), short_timeouts():
        known = mlflow_client(uri).get_experiment_by_name(experiment)
    if not known:
        return f"{server}/#/experiments"
    view = f"&viewStateShareKey={VIEW}" if VIEW_TAG in known.tags else ""
    return f"{server}/#/experiments/{known.experiment_id}/runs?workflowType=machine_learning{view}"


def mlflow_client(uri: str) -> MlflowClient:
    """Return a client of the store."""
    mlflow = load_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own use of SQLAlchemy
        return mlflow.MlflowClient(tracking_uri=uri)


@functools.cache
def load_mlflow() -> ModuleType:
    """Import MLflow without messages about migrations, a missing git and its UI.

    Sets the environment variables of `ENVIRONMENT` that are not set, in this process and so in its children. MLflow
    reads some of them when it is imported and some at every request.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # tracebacks of errors that are raised as well
    return mlflow


class _ShortTimeouts:
    """Nestable, thread-safe swap of the environment variables from which MLflow reads its HTTP limits.

    MLflow reads them at every request and its client takes no timeout, so the swap is process-wide: the first user
    saves the values and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for the swap only, never during a request
        self._users = 0
        self._before: dict[str, str | None] = {}

    def enter(self) -> None:
        limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S)}
        with self._lock:
            if self._users == 0:
                self._before = {key: os.environ.get(key) for key in limits}
                os.environ.update(limits)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
            for key, value in self._before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


_SHORT_TIMEOUTS = _ShortTimeouts()


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """Limit MLflow's requests to seconds instead of four minutes of retries; uses in several threads may overlap."""
    _SHORT_TIMEOUTS.enter()
    try:
        yield
    finally:
        _SHORT_TIMEOUTS.leave()


@contextlib.contextmanager
def mlflow_errors(uri: str, doing: str) -> Iterator[None]:
    """Raise a TrackingError of one sentence with a remedy instead of what MLflow raises.

    Args:
        uri: of the store.
        doing: what is being done, such as "read runs", for the message.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise TrackingError(_error_message(uri, doing, error)) from error


def _connection_failure(error: Exception) -> str | None:
    """Return why the store did not answer; None if it did, even with an error."""
    if "Connection aborted" in str(error):
        return "the connection was cut"
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.filename is None:  # not a file's error, so the network's
        return redact(cause.strerror or str(cause) or type(cause).__name__)
    return None


def _error_message(uri: str, doing: str, error: Exception) -> str:
    if full_disk_error(error) or "database or disk is full" in str(error):  # the latter is SQLite's
        return f"cannot {doing} in MLflow at {redact_value(uri)} ({FULL}); free disk space"
    server = uri.startswith(("http://", "https://"))
    reason = _connection_failure(error)
    if reason is not None:
        return (
            f"no MLflow {'server' if server else 'store'} answers at {redact_value(uri)} ({reason}); start it, as with "
            "'mlflow server', or set tracking.uri to another, such as sqlite:////data/mlflow.db"
        )
    message = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
    if server and re.search(r"error code 40[13]\b", message):
        return (
            f"the MLflow server at {redact_value(uri)} refuses the credentials; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if server and re.search(r"error code 404\b|not in a valid JSON format", message):
        return f"{redact_value(uri)} answers, but not as an MLflow server; correct tracking.uri"
    overload = re.search(r"too many (\d+) error responses", message)
    if server and overload:
        return f"the MLflow server at {redact_value(uri)} fails with HTTP status {overload[1]}; its log says why"
    return f"cannot {doing} in MLflow at {redact_value(uri)}: {textwrap.shorten(message, 400, placeholder=' ...')}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for another store."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path) if uri.startswith("sqlite:///") and path else None


def _check_sqlite(uri: str, file: Path) -> None:
    """Check at once what MLflow would try ten times before it raises.

    Raises:
        TrackingError: the file cannot be written, is locked or damaged, is not SQLite, or has a name that MLflow
            misreads.
    """
    remedy = "set tracking.uri to a file in a folder that can be written, such as sqlite:////data/mlflow.db"
    query = uri.partition("?")[2]
    if "%" in str(file) or not re.fullmatch(r"(\w+=[^/]*)?", query):
        raise TrackingError(
            f"MLflow misreads % and ? in the path of its store, {uri}; write another --out, or {remedy}"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            with file.open("r+b") as stream:
                header = stream.read(16)
        elif os.access(file.parent, os.W_OK):
            header = b""
        else:
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise TrackingError(f"the MLflow store {file} cannot be written ({error.strerror}); {remedy}") from None
    if header and header != b"SQLite format 3\0":
        raise TrackingError(f"{file} is not a SQLite file, so it cannot be MLflow's store; {remedy}")
    if header:
        try:
            with contextlib.closing(sqlite3.connect(file, timeout=TIMEOUT_S)) as store:
                store.execute("BEGIN IMMEDIATE")  # as a writer does
        except sqlite3.Error as error:
            raise TrackingError(
                f"the MLflow store {file} cannot be written ({error}); end the program that locks it, or {remedy}"
            ) from None


def _create_sqlite(file: Path) -> None:
    """Create MLflow's tables in a file of another name, then link it, so that the store is complete or absent.

    MLflow itself creates them in place, which fails when two runs start in a new folder at the same time.
    """
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch:
        complete = Path(scratch, file.name)
        mlflow_client(f"sqlite:///{complete}").search_experiments(max_results=1)
        if file.exists() and not file.stat().st_size:
            complete.rename(file)  # an empty file, as a full disk leaves one
            return
        try:
            os.link(complete, file)
        except FileExistsError:
            pass  # another run was first
        except OSError:  # a file system without hard links
            complete.rename(file)


def _connect_once(uri: str) -> bool:
    """Connect to a store's host: raise an OSError now instead of after minutes of retries.

    Returns:
        False if it has none, or is behind a proxy.
    """
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or not port:
        return False
    is_http = parts.scheme.startswith("http")
    if is_http and {parts.scheme, "all"} & getproxies().keys() and not proxy_bypass(parts.hostname):
        return False
    socket.create_connection((parts.hostname, port), timeout=TIMEOUT_S).close()
    return True
