"""One Ray cluster for all tests here, started as a user starts one: with token authentication."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hbt_ray.config import PretrainRunConfig, build
from hbt_ray.search.config import SearchConfig
from tests.helpers.paths import REPOSITORY
from tests.helpers.ports import free_port
from tests.helpers.tiny_runs import tiny_config, write_corpus
from tests.integration import worker_fork_server as fork_server

if TYPE_CHECKING:
    from hbt_ray.cluster.search.run_search import FinishedSearch

os.environ.setdefault("RAY_AUTH_MODE", "token")  # read by Ray when it is imported
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # runs here save more often than they compute

MARK = "HBT_TEST_CLUSTER"
NUM_CPUS = 4  # slots, not cores: two workers, and tasks next to them
# A process takes seconds to start: none does before a task asks for it, and idle ones stay for other tests' tasks.
FEW_STARTS = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_workers_soft_limit": "16",
}


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory, bucket) -> str:
    """Start a cluster and yield the address of its dashboard; RAY_ADDRESS names the cluster meanwhile.

    Its processes inherit the keys of `bucket`'s server.
    """
    port, dashboard_port = free_port(), free_port()
    folder = tmp_path_factory.mktemp("ray")
    log = (folder / "head.log").open("wb")
    token = folder / "auth_token"  # a machine may have none, and `ray start` makes none
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ[MARK] = str(port)  # inherited by every process of this cluster, and by no other's
    os.environ[fork_server.SOCKET] = str(folder / "fork_server")
    command = [sys.executable, "-m", fork_server.__name__, "serve", os.environ[fork_server.SOCKET]]
    worker_server = subprocess.Popen(command, cwd=REPOSITORY)
    interpreter = str(folder / "python")
    fork_server.write_interpreter(interpreter)
    ray_script = f"import sys; sys.executable = {interpreter!r}; from ray.scripts.scripts import main; main()"
    head = subprocess.Popen(
        [
            sys.executable,
            "-c",
            ray_script,
            "start",
            "--head",
            "--block",
            "--num-cpus",
            str(NUM_CPUS),
            "--port",
            str(port),
        ]
        + ["--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
        # The agent takes submitted jobs; its usual port may be held by another cluster of this machine.
        + ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())]
        + ["--disable-usage-stats", "--object-store-memory", str(400 * 2**20)],
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | FEW_STARTS,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    _wait_for(f"http://127.0.0.1:{dashboard_port}/api/version", head)
    yield f"http://127.0.0.1:{dashboard_port}"
    import ray as ray_module

    ray_module.shutdown()
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(3)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", fork_server.SOCKET):
        del os.environ[name]
    worker_server.kill()
    worker_server.wait()
    log.close()


def _wait_for(url: str, head: subprocess.Popen) -> None:
    for _ in range(960):
        assert head.poll() is None, "ray start ended"
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except urllib.error.HTTPError:  # it answers, and requires the token
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the dashboard did not come up within 240 s")


@pytest.fixture(scope="session")
def cluster(dashboard):
    """Connect this process to the cluster as a driver."""
    from hbt_ray.cluster.runtime import connect

    connect()


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_corpus(tmp_path)


def tiny_pretraining(corpus: Path, **settings) -> PretrainRunConfig:
    """Return a pretraining over `corpus` that takes seconds; `settings` replace those of `pretrain`."""
    run = tiny_config(corpus)
    loop = {"steps": 20, "block_tokens": 32, "global_batch_blocks": 8, "chunk_blocks": 2, "learning_rate": 1e-2}
    plain = {
        "corpora": [one.model_dump() for one in run.corpora],
        "text": run.text.model_dump(),
        "model": run.model.model_dump(),
        "prepare": {"validation_share": 0.2},
        "pretrain": {**loop, "precision": "fp32", "checkpoint_every": 5, "threads_per_worker": 1, **settings},
    }
    return build(PretrainRunConfig, plain)


def tiny_search(corpus: Path, *, experiment: str = "others", **settings) -> SearchConfig:
    """Return a search over alpha whose trials take seconds, evaluated on the corpus `others` next to `corpus`."""
    run = tiny_config(
        corpus,
        prepare={"validation_share": 0.3},
        train={"steps": 6, "checkpoint_every": 3},
        evaluate={"benchmarks": {"pairs": str(corpus.parent / "others")}, "precision": "fp32"},
        tracking={"experiment": experiment, "log_model": experiment == "hbt"},
    )
    plain = {
        "concurrent": 1,
        "run": run.model_dump(mode="json"),
        "space": {"mix.alpha": [0.0, 1.0]},
        "dev": {"items": 8},
    }
    return SearchConfig.model_validate(plain | settings)


@pytest.fixture(scope="session")
def search_corpus(tmp_path_factory) -> Path:
    """Return one corpus for all searches, so that their results can be compared."""
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder, "others", range(1000, 1012))
    write_corpus(folder, "dev", range(2000, 2012))
    return write_corpus(folder)


@pytest.fixture(scope="session")
def finished_search(cluster, search_corpus) -> FinishedSearch:
    """Run a search over two alphas with two seeds each; its MLflow store is `mlflow.db` next to its folder."""
    from hbt_ray.cluster.search.run_search import search

    # Next to the corpus, as the other searches, so that they share a token store.
    return search(tiny_search(search_corpus, experiment="hbt", seeds=[0, 1]), search_corpus.parent / "grid")
