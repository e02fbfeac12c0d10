"""One Ray cluster for all tests here, started as a user starts one: with token authentication."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hbt_ray.config import PretrainRunConfig, build
from hbt_ray.search.config import SearchConfig
from tests.helpers.background import BackgroundWork
from tests.helpers.tiny_runs import tiny_config, write_corpus
from tests.integration import background
from tests.integration.cluster import MARK, NUM_CPUS, LocalCluster

if TYPE_CHECKING:
    from hbt_ray.cluster.search.run_search import FinishedSearch

__all__ = ["MARK", "NUM_CPUS", "tiny_config", "write_corpus"]

os.environ.setdefault("RAY_AUTH_MODE", "token")  # read by Ray when it is imported
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # runs here save more often than they compute

CLUSTER, WORK = pytest.StashKey[LocalCluster](), pytest.StashKey[BackgroundWork]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the cluster and the work of fixtures, if a test needs them; they start while other tests run."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "dashboard" not in needed or session.config.option.collectonly:
        return
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    cluster = session.config.stash[CLUSTER] = LocalCluster(factory.mktemp("ray"))
    session.config.add_cleanup(cluster.stop)
    tables = factory.mktemp("mlflow_of_work") / "mlflow.db"
    prepare = functools.partial(background.prepare_driver, cluster.dashboard, tables)
    work = session.config.stash[WORK] = BackgroundWork(prepare, cluster.environment)
    session.config.add_cleanup(work.stop)
    submit = functools.partial(background.submit_job, cluster.dashboard, tables)
    for name, function in {"submitted_job": submit, **background.WORK}.items():
        if name in needed:
            # Searches are next to each other, so that they share corpora and a token store.
            folder = factory.getbasetemp() / name.replace("killed_search", "finished_search")
            folder.mkdir(exist_ok=True)
            work.start(name, function, folder)


@pytest.fixture(scope="session")
def work(request: pytest.FixtureRequest) -> BackgroundWork:
    """Return the work of other processes."""
    return request.config.stash[WORK]


@pytest.fixture(scope="session")
def dashboard(request: pytest.FixtureRequest, work: BackgroundWork, bucket: object) -> Iterator[str]:
    """Yield the address of the cluster's dashboard; RAY_ADDRESS names the cluster meanwhile.

    No work is left then: some tests kill workers, and count those that run.
    """
    work.finish()
    cluster = request.config.stash[CLUSTER]
    cluster.wait()
    os.environ.update(cluster.environment)
    yield cluster.dashboard
    import ray as ray_module

    ray_module.shutdown()
    cluster.stop()
    for name in cluster.environment:
        del os.environ[name]


@pytest.fixture(scope="session")
def cluster(dashboard):
    """Connect this process to the cluster as a driver."""
    from hbt_ray.cluster.runtime import connect

    connect()


@pytest.fixture(scope="package", autouse=True)
def few_counted_tokens() -> Iterator[None]:
    """Estimate token frequencies from little text in the tests here, and in no later ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hbt_ray.pretraining.collate.COUNTED_TOKENS", background.FEW_TOKENS)
        yield


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


def write_search_corpora(folder: Path) -> Path:
    """Write the corpora of all searches to a folder; return it."""
    write_corpus(folder, "others", range(1000, 1012))
    write_corpus(folder, "dev", range(2000, 2012))
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def search_corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one corpus for all searches, so that their results can be compared."""
    if any("finished_search" in getattr(item, "fixturenames", ()) for item in request.session.items):
        return request.getfixturevalue("finished_search").folder.parent / "numbers"
    return write_search_corpora(tmp_path_factory.mktemp("corpora")) / "numbers"


@pytest.fixture(scope="session")
def finished_search(cluster: None, work: BackgroundWork) -> FinishedSearch:
    """Return a search over two alphas with two seeds each; its MLflow store is `mlflow.db` next to its folder."""
    return work.result("finished_search")
