"""Fixtures of tracking: one SQLite store, a function that starts runs in it, and a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hbt_ray.config import RunConfig, build_config
from hbt_ray.tracking import Tracker
from hbt_ray.utils.storage import StoragePath

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


def run_of(tracker: Tracker) -> Run:
    """Read a run from MLflow."""
    from mlflow import MlflowClient

    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def values_of(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    """Read (step, value) of a metric, in the order logged."""
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(tracker.uri).get_metric_history(tracker.run_id, name)]
