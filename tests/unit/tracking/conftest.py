"""Fixtures of tracking: one SQLite store, a function that starts runs in it, and a tiny model."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hbt_ray.config import RunConfig, build_config
from hbt_ray.errors import TrackingError
from hbt_ray.tracking import Tracker, check_reachable
from hbt_ray.utils.storage import StoragePath
from tests.helpers.ports import free_port

if TYPE_CHECKING:
    from mlflow.entities import Run

CONFIG = build_config({"seed": 7, "mix": {"alpha": 0.6}, "corpora": [{"format": "embedded", "name": "small"}]})
SENTENCES = ["where is the river", "the river is long", "who wrote the book"]

StartRun = Callable[..., Tracker]


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def sqlite_uri(runs_dir: Path) -> str:
    """Return the URI of one store for all tests, because creating its tables takes a second."""
    return f"sqlite:///{runs_dir}/mlflow.db"


@pytest.fixture(scope="session")
def start_run(sqlite_uri: str, runs_dir: Path) -> StartRun:
    """Return a function that starts the run of a name, or resumes it, in its folder under `runs_dir`."""

    def start(name: str, config: RunConfig = CONFIG, unsent_file: Path | None = None) -> Tracker:
        id_file = StoragePath.of(runs_dir / name / "mlflow_run_id")
        return Tracker.start(sqlite_uri, "hbt", name, config, id_file, unsent_file)

    return start


@pytest.fixture
def set_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return MLflow's function, whose effects on the process end with the test."""
    import mlflow
    from mlflow.tracking._tracking_service import utils

    monkeypatch.setattr(utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restored at the end, whatever MLflow sets
    return mlflow.set_tracking_uri


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT of width 16 that pools and normalises, as a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=words.get_vocab_size(),
        max_position_embeddings=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    folder = tmp_path_factory.mktemp("model")
    BertModel(shape).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    encoder = Transformer(str(folder / "bert"), max_seq_length=16)
    whole = SentenceTransformer(modules=[encoder, Pooling(16, "mean"), Normalize()], device="cpu")
    whole.save(str(folder / "whole"), create_model_card=False)
    return folder / "whole"


@pytest.fixture(scope="package", autouse=True)
def starting_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path] | None]:
    """Start an MLflow server; return its URI, process and log. It starts in ten seconds, while other tests run."""
    if not any("server_uri" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(request.getfixturevalue("mlflow_tables"), folder / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}", server, folder / "log"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="package")
def server_uri(starting_server: tuple[str, subprocess.Popen[bytes], Path]) -> str:
    uri, server, log = starting_server
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            check_reachable(uri)
            return uri
        except TrackingError:
            time.sleep(0.2)
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def run_of(tracker: Tracker) -> Run:
    """Read a run from MLflow."""
    from mlflow import MlflowClient

    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def values_of(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    """Read (step, value) of a metric, in the order logged."""
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(tracker.uri).get_metric_history(tracker.run_id, name)]
