"""Fixtures shared by unit and integration tests."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read by OpenMP when torch or scikit-learn load it. The tests' tensors are too small to gain from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from hbt_ray.data.types import Benchmark

BUCKET_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

# A slow machine is not a failure. Only the slow tests explore: others draw the same examples in each run.
SLOW = "HBT_SLOW_TESTS" in os.environ
settings.register_profile("hbt", deadline=None, max_examples=100 if SLOW else 25, derandomize=not SLOW)
settings.load_profile("hbt")

gc.disable()  # imports make no garbage, and collecting it takes seconds


def pytest_collection_finish() -> None:
    """Leave the objects of imported libraries out of garbage collection, which took seconds of each minute."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of malformed inputs that were tried."""
    damage = sys.modules.get("tests.helpers.damage")
    if damage is not None and damage.CASES:
        terminalreporter.write_line(f"{damage.CASES.total()} malformed inputs in {len(damage.CASES)} tests")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets; skip tests that need it if it does not exist."""
    folder = Path(os.environ.get("HBT_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set HBT_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def xquad_r(shared_data: Path) -> Benchmark:
    """Return the benchmark XQuAD-R; reading its 11 languages takes seconds."""
    from hbt_ray.data.benchmarks import load_benchmark

    return load_benchmark("xquad-r", str(shared_data / "xquad-r"))


@pytest.fixture(scope="session")
def bucket() -> Iterator[object]:
    """Run a real S3 server on this machine and yield a bucket of it."""
    import pyarrow.fs as pafs
    from moto.server import ThreadedMotoServer

    from hbt_ray.utils.storage import StoragePath

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = {name: os.environ.get(name) for name in BUCKET_KEYS}
    os.environ.update(BUCKET_KEYS)
    host, port = server.get_host_and_port()
    store = pafs.S3FileSystem(
        endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir("runs")
    yield StoragePath.of(f"s3://runs?endpoint_override={host}:{port}&scheme=http&region=us-east-1")
    server.stop()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="session")
def create_mlflow_tables() -> Callable[[Path], None]:
    """Return the function that creates MLflow's tables, as it is before `fast_mlflow_stores` replaces it."""
    from hbt_ray.tracking import server

    return server._create_sqlite


@pytest.fixture(scope="session")
def mlflow_tables(create_mlflow_tables: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with MLflow's tables and no run; creating them takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_mlflow_tables(file)
    return file


@pytest.fixture(scope="session", autouse=True)
def fast_mlflow_stores(create_mlflow_tables: object, request: pytest.FixtureRequest) -> Iterator[None]:
    """Create new SQLite stores as copies of `mlflow_tables`, and let no commit wait for the disk.

    Stores of other processes are not affected.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from hbt_ray.tracking import server

    def copy_tables(file: Path) -> None:
        shutil.copyfile(request.getfixturevalue("mlflow_tables"), file)

    def do_not_wait(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", do_not_wait)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_create_sqlite", copy_tables)
        yield
    event.remove(Engine, "connect", do_not_wait)


@pytest.fixture(autouse=True)
def unchanged_tracking_uri() -> Iterator[None]:
    """Fail a test that leaves MLFLOW_TRACKING_URI changed: later ones would write to its store."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


@pytest.fixture
def no_mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove MLflow's settings from the environment."""
    from hbt_ray.tracking.server import load_mlflow

    load_mlflow()  # which sets some of them, once in a process
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, so that the order of sums, and with it their last bits, is fixed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
