"""What integration tests need and what takes long, made in other processes while the unit tests run."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.helpers.paths import REPOSITORY
from tests.integration.cluster import wait_for_dashboard

if TYPE_CHECKING:
    from hbt_ray.cluster.search.run_search import FinishedSearch
    from hbt_ray.config import RunConfig


def prepare_driver(dashboard: str, mlflow_tables: Path) -> None:
    """Prepare a process as the test process is: the cluster is up, and new MLflow stores are copies."""
    from hbt_ray.pretraining import collate
    from hbt_ray.tracking import server

    if not mlflow_tables.exists():
        server._create_sqlite(mlflow_tables)
    server._create_sqlite = functools.partial(shutil.copyfile, mlflow_tables)  # type: ignore[assignment]
    collate.COUNTED_TOKENS = FEW_TOKENS
    wait_for_dashboard(dashboard)


FEW_TOKENS = 10_000  # from which token frequencies are estimated


def make_search(folder: Path) -> FinishedSearch:
    """Run a search over two alphas with two seeds each."""
    from hbt_ray.cluster.search.run_search import search
    from tests.integration.conftest import tiny_search, write_search_corpora

    write_search_corpora(folder)
    # Next to the corpus, as the other searches, so that they share a token store.
    return search(tiny_search(folder / "numbers", experiment="hbt", seeds=[0, 1]), folder / "grid")


def kill_search(folder: Path) -> dict[Path, int]:
    """Kill a search like that of `make_search` when it has a finished trial; return when each result was written.

    Returns:
        file with the last evaluation of a trial -> its time of modification, ns.
    """
    from tests.integration.conftest import tiny_search

    settings = folder / "search.yaml"
    settings.write_text(yaml.safe_dump(tiny_search(folder / "numbers", seeds=[0, 1]).model_dump(mode="json")))
    out = folder / "killed"
    command = [sys.executable, "-m", "hbt_ray.cli", "search", "--config", settings, "--out", out]
    driver = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL)
    for _ in range(6000):  # 5 minutes, for slow machines
        if list(out.glob("trials/*/finished")) or driver.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    return {path: path.stat().st_mtime_ns for path in out.glob("trials/*/measured/6.json")}


def list_sockets(_: Path) -> str:
    """Start a cluster as hbt does where there is none; return the address and process of each listening socket."""
    from tests.integration.test_runtime import LISTENING

    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def make_study(folder: Path) -> Path:
    """Run the tiny study on corpora that are made for it; return their folder."""
    from hbt_ray.cluster.pipelines.study import study
    from tests.helpers.tiny_runs import write_corpus
    from tests.integration.test_study import COMMAND, tiny_study

    write_corpus(folder)
    write_corpus(folder, "others", range(1000, 1020))
    study(tiny_study(folder), folder / "tiny", COMMAND)
    return folder


def submit_job(dashboard: str, mlflow_tables: Path, folder: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run `ray job submit` for a training; return the submission and the folder of its runs.

    It is submitted again while the node that just started has no agent to take a job yet.
    """
    from hbt_ray.config import dump_config
    from tests.helpers.tiny_runs import tiny_config, write_corpus

    config = folder / "config.yaml"
    config.write_text(dump_config(tiny_config(write_corpus(folder), tracking={"log_model": False})))
    (folder / "runs").mkdir()
    shutil.copy(mlflow_tables, folder / "runs" / "mlflow.db")
    ray = Path(sys.executable).with_name("ray")
    words = [ray, "job", "submit", "--address", dashboard, "--working-dir", REPOSITORY, "--", sys.executable]
    words += ["jobs/train.py", "--config", config, "alpha=0.6", "--out", folder / "runs" / "job"]
    for _ in range(30):
        submitted = subprocess.run(words, capture_output=True, text=True, timeout=300)
        if "No available agent" not in submitted.stdout + submitted.stderr:
            break
        time.sleep(2)
    return submitted, folder / "runs"


def train_on_ray(folder: Path) -> tuple[Path, RunConfig]:
    """Train for three steps with one worker, into `ray`; return the folder and the settings."""
    from hbt_ray import train
    from tests.helpers.tiny_runs import tiny_config, write_corpus

    config = tiny_config(write_corpus(folder), train={"steps": 3})
    train(config, folder / "ray")
    return folder, config


def make_pretraining(folder: Path) -> tuple[Path, dict[str, dict[str, float]]]:
    """Pretrain for 20 steps with two workers, into `runs/pretrained`; return the folder and the held-out values."""
    from hbt_ray.cluster.pipelines.pretrain import pretrain
    from tests.helpers.tiny_runs import write_corpus
    from tests.integration.conftest import tiny_pretraining

    settings = tiny_pretraining(write_corpus(folder), workers=2, evaluate_every=10)
    return folder, pretrain(settings, folder / "runs" / "pretrained").held_out


# Fixture -> what makes its value in an empty folder
WORK: dict[str, Callable[[Path], Any]] = {
    "listening_sockets": list_sockets,
    "finished_search": make_search,
    "killed_search": kill_search,
    "finished_study": make_study,
    "run_on_ray": train_on_ray,
    "finished_pretraining": make_pretraining,
}
