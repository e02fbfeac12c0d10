"""Tracking against a SQLite store in a folder, and against a real MLflow server on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.config import RunConfig, build_config
from hbt_ray.errors import TrackingError
from hbt_ray.tracking import Tracker, check_reachable, masked, tracked_name, training_runs, ui_command
from hbt_ray.utils.storage import StoragePath
from tests.helpers.ports import free_port

CONFIG = build_config({"seed": 7, "mix": {"alpha": 0.6}, "corpora": [{"format": "embedded", "name": "small"}]})
SENTENCES = ["where is the river", "the river is long", "who wrote the book"]

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def sqlite_uri(runs_dir: Path) -> str:
    """One store for the module: making its tables takes a second."""
    return f"sqlite:///{runs_dir}/mlflow.db"


@pytest.fixture(scope="module", autouse=True)
def starting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Start an MLflow server; return its URI, process and log. It takes ten seconds, while other tests run."""
    folder = tmp_path_factory.mktemp("server")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def _run_of(tracker: Tracker):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def _values(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    """(step, value) in the order logged."""
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(tracker.uri).get_metric_history(tracker.run_id, name)]


def test_import_does_not_load_mlflow():
    code = "import sys, hbt_ray.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_restarted_run_goes_on_in_the_same_mlflow_run(sqlite_uri: str, runs_dir: Path):
    id_file = runs_dir / "restarted" / "mlflow_run_id"
    first = Tracker.start(sqlite_uri, "hbt", "restarted", CONFIG, StoragePath.of(id_file))
    first.log_metrics({"train/loss": 2.0}, step=1)
    first.finish("FAILED")

    second = Tracker.start(sqlite_uri, "hbt", "restarted", CONFIG, StoragePath.of(id_file))
    assert second.run_id == first.run_id
    assert _run_of(second).info.status == "RUNNING"
    second.log_metrics({"train/loss": 1.0}, step=2)
    second.finish()

    assert _values(second, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert _run_of(second).info.status == "FINISHED"


def test_parameters_are_flat_and_a_change_on_resume_is_a_tag(sqlite_uri: str, runs_dir: Path):
    id_file = runs_dir / "params" / "mlflow_run_id"
    tracker = Tracker.start(sqlite_uri, "hbt", "params", CONFIG, StoragePath.of(id_file))
    run = _run_of(tracker)
    assert run.data.params["mix.alpha"] == "0.6"
    assert run.data.params["corpora.small.format"] == "embedded"
    assert run.data.params["text.max_query_tokens"] == "64"
    expected = {"strategy": "hybrid", "alpha": "0.6", "seed": "7", "hbt_version": "0.1.0"}
    assert expected.items() <= run.data.tags.items()

    longer = RunConfig.model_validate({**CONFIG.model_dump(), "train": {"steps": 900}})
    Tracker.start(sqlite_uri, "hbt", "params", longer, StoragePath.of(id_file))
    run = _run_of(tracker)
    assert run.data.params["train.steps"] == "600"
    assert run.data.tags["resumed.train.steps"] == "900"


def test_values_over_mlflows_limit_are_clipped(sqlite_uri: str, runs_dir: Path):
    config = build_config({"text": {"query_prefix": "x" * 7000}})
    tracker = Tracker.start(sqlite_uri, "hbt", "long", config, StoragePath.of(runs_dir / "long" / "mlflow_run_id"))
    assert _run_of(tracker).data.params["text.query_prefix"] == "x" * 6000


def test_a_run_that_mlflow_lost_is_made_anew(sqlite_uri: str, runs_dir: Path, caplog: pytest.LogCaptureFixture):
    id_file = runs_dir / "lost" / "mlflow_run_id"
    id_file.parent.mkdir()
    id_file.write_text("0" * 32)
    tracker = Tracker.start(sqlite_uri, "hbt", "lost", CONFIG, StoragePath.of(id_file))
    assert tracker.run_id != "0" * 32
    assert id_file.read_text().strip() == tracker.run_id
    assert "no longer has run" in caplog.text


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("xquad-r/mono/map", "xquad-r/mono/map"),
        ("xquad-r/de-en/recall@10", "xquad-r/de-en/recall_at_10"),
        ("a:b(c)", "a_b_c_"),
        ("/a//b/../c", "a/c"),
        ("sprache/größe", "sprache/größe"),
        ("x" * 300, "x" * 250),
    ],
)
def test_metric_names_map_to_ones_that_mlflow_allows(name: str, kept: str):
    from mlflow.utils.validation import _validate_metric_name

    assert tracked_name(name) == kept == tracked_name(kept)
    _validate_metric_name(kept)


def test_more_metrics_than_one_request_holds_are_all_logged(sqlite_uri: str, runs_dir: Path):
    tracker = Tracker.start(sqlite_uri, "hbt", "many", CONFIG, StoragePath.of(runs_dir / "many" / "mlflow_run_id"))
    tracker.log_metrics({f"pair/{i}": i / 2 for i in range(1001)}, step=3)
    metrics = _run_of(tracker).data.metrics
    assert len(metrics) == 1001
    assert metrics["pair/1000"] == 500.0


def test_metrics_wait_for_a_store_that_does_not_answer(
    sqlite_uri: str, runs_dir: Path, caplog: pytest.LogCaptureFixture
):
    tracker = Tracker.start(sqlite_uri, "hbt", "waits", CONFIG, StoragePath.of(runs_dir / "waits" / "mlflow_run_id"))
    tracker.uri = f"http://127.0.0.1:{free_port()}"
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_metrics({"loss": 1.5}, step=2)
    assert caplog.text.count("no MLflow server answers") == 1
    tracker = pickle.loads(pickle.dumps(tracker))
    tracker.uri = sqlite_uri
    tracker.log_metrics({"loss": 1.0}, step=3)
    assert _values(tracker, "loss") == [(1, 2.0), (2, 1.5), (3, 1.0)]


def test_data_sets_are_noted_once_with_fingerprint_source_and_profile(sqlite_uri: str, runs_dir: Path):
    tracker = Tracker.start(sqlite_uri, "hbt", "data", CONFIG, StoragePath.of(runs_dir / "data" / "mlflow_run_id"))
    for _ in range(2):
        tracker.log_dataset("small", "0123456789abcdef", "/data/store", {"items": 3, "languages": ["de"]}, "training")
    tracker.log_dataset("xquad-r", "fedcba9876543210", "s3://ada:pass@bucket/x", {}, "evaluation")
    inputs = {i.dataset.name: i for i in _run_of(tracker).inputs.dataset_inputs}
    assert len(_run_of(tracker).inputs.dataset_inputs) == 2
    small = inputs["small"].dataset
    assert small.digest == "0123456789abcdef"
    assert json.loads(small.source) == {"uri": "/data/store"}
    assert json.loads(small.profile) == {"items": 3, "languages": ["de"]}
    assert inputs["xquad-r"].tags[0].value == "evaluation"
    assert "pass" not in inputs["xquad-r"].dataset.source


def test_artifacts_and_tables_lie_beside_the_store(sqlite_uri: str, runs_dir: Path, tmp_path: Path):
    tracker = Tracker.start(sqlite_uri, "hbt", "files", CONFIG, StoragePath.of(runs_dir / "files" / "mlflow_run_id"))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "loss.svg").write_text("<svg/>")
    tracker.log_artifacts(tmp_path / "figures", "report")
    tracker.log_artifacts(tmp_path / "figures" / "loss.svg")
    tracker.log_text("tracking: {uri: http://ada:pass@tracking:5000}", "config.yaml")
    tracker.log_table("languages", [{"language": "de", "map": 0.1}])
    tracker.log_table("languages", [{"language": "de", "map": 0.5}, {"language": "ru", "map": math.nan, "queries": 2}])
    folder = runs_dir / "mlartifacts" / tracker.run_id / "artifacts"
    assert (folder / "report" / "loss.svg").read_text() == (folder / "loss.svg").read_text() == "<svg/>"
    assert (folder / "config.yaml").read_text() == "tracking: {uri: http://***@tracking:5000}"
    table = json.loads((folder / "tables" / "languages.json").read_text())
    assert table == {"columns": ["language", "map", "queries"], "data": [["de", 0.5, None], ["ru", None, 2]]}


def test_the_logged_model_gives_the_same_vectors(sqlite_uri: str, runs_dir: Path, model_dir: Path):
    import mlflow
    from mlflow import MlflowClient
    from sentence_transformers import SentenceTransformer

    tracker = Tracker.start(sqlite_uri, "hbt", "model", CONFIG, StoragePath.of(runs_dir / "model" / "mlflow_run_id"))
    uri = tracker.log_model(model_dir, step=600)
    logged = MlflowClient(sqlite_uri).get_logged_model(uri.removeprefix("models:/"))
    assert logged.source_run_id == tracker.run_id
    assert [output.model_id for output in _run_of(tracker).outputs.model_outputs] == [logged.model_id]

    expected = SentenceTransformer(str(model_dir), device="cpu").encode(SENTENCES)  # (3, 16)
    folder = Path(logged.artifact_location.removeprefix("file://"))
    alone = SentenceTransformer(str(folder / "model.sentence_transformer"), device="cpu")
    np.testing.assert_array_equal(alone.encode(SENTENCES), expected)
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert "transformers==5.23.0" in requirements
    assert "mlflow==3.17.2" in requirements

    mlflow.set_tracking_uri(sqlite_uri)
    for place in (uri, f"runs:/{tracker.run_id}/model"):
        loaded = mlflow.sentence_transformers.load_model(place)
        np.testing.assert_array_equal(loaded.encode(SENTENCES, device="cpu"), expected)
    served = mlflow.pyfunc.load_model(uri).predict(SENTENCES)
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-6)


def test_system_metrics_go_on_after_a_restart(sqlite_uri: str, runs_dir: Path):
    tracker = Tracker.start(sqlite_uri, "hbt", "system", CONFIG, StoragePath.of(runs_dir / "system" / "mlflow_run_id"))
    for _ in range(2):
        with tracker.system_metrics(interval_s=0.1):
            time.sleep(0.5)
    steps = [step for step, _ in _values(tracker, "system/cpu_utilization_percentage")]
    assert len(steps) >= 2
    assert steps == list(range(len(steps)))


def test_runs_are_read_back_by_name_id_and_tag(tmp_path: Path, sqlite_uri: str, runs_dir: Path):
    trackers = {}
    for alpha in (0.0, 1.0):
        config = build_config({"mix": {"alpha": alpha}})
        name = f"alpha-{alpha}"
        trackers[name] = Tracker.start(
            sqlite_uri, "compare", name, config, StoragePath.of(tmp_path / name / "mlflow_run_id")
        )
        trackers[name].log_metrics({"xquad-r/mono/map": alpha / 2}, step=600)
    both = training_runs(sqlite_uri, "compare")
    assert [(run.name, run.metrics) for run in both] == [
        ("alpha-0.0", {"xquad-r/mono/map": 0.0}),
        ("alpha-1.0", {"xquad-r/mono/map": 0.5}),
    ]
    (by_id,) = training_runs(sqlite_uri, "compare", [trackers["alpha-1.0"].run_id])
    (by_tag,) = training_runs(sqlite_uri, "compare", tags={"alpha": "1.0"})
    assert by_id == by_tag == both[1]
    assert training_runs(sqlite_uri, _run_of(trackers["alpha-0.0"]).info.experiment_id) == both
    with pytest.raises(TrackingError, match=r"no run 'alpha-2'; there are alpha-0.0, alpha-1.0"):
        training_runs(sqlite_uri, "compare", ["alpha-2"])
    with pytest.raises(TrackingError, match=r"no experiment 'other'; there are .*'compare'"):
        training_runs(sqlite_uri, "other")
    with pytest.raises(TrackingError, match=r"there is no MLflow store .*none.db"):
        training_runs(f"sqlite:///{tmp_path}/none.db", "compare")


def test_metrics_that_were_never_sent_go_out_when_the_run_goes_on(sqlite_uri: str, runs_dir: Path):
    place, unsent = StoragePath.of(runs_dir / "kept" / "mlflow_run_id"), runs_dir / "kept" / "unsent.jsonl"
    tracker = Tracker.start(sqlite_uri, "hbt", "kept", CONFIG, place, unsent)
    tracker.log_metrics({"loss": 3.0}, step=0)
    tracker.uri = f"http://127.0.0.1:{free_port()}"
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_metrics({"loss": 1.5}, step=2)
    with unsent.open("a") as file:
        file.write('["cut sho')  # its writer was killed
    again = Tracker.start(sqlite_uri, "hbt", "kept", CONFIG, place, unsent)
    assert again.run_id == tracker.run_id
    assert _values(again, "loss") == [(0, 3.0), (1, 2.0), (2, 1.5)]
    assert not unsent.exists()


def test_a_deleted_experiment_is_told_with_the_way_out(sqlite_uri: str, tmp_path: Path):
    from mlflow import MlflowClient

    check_reachable(sqlite_uri)
    MlflowClient(sqlite_uri).delete_experiment(MlflowClient(sqlite_uri).create_experiment("gone"))
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        Tracker.start(sqlite_uri, "gone", "a", CONFIG, StoragePath.of(tmp_path / "id"))


def test_secrets_are_masked_wherever_they_may_be_seen(sqlite_uri: str, tmp_path: Path):
    assert masked("s3://key:s@crt@bucket/x") == "s3://***@bucket/x"
    assert masked("https://h/x?a=1&X-Amz-Signature=abc&b=2") == "https://h/x?a=1&X-Amz-Signature=***&b=2"
    assert masked("mail ada@example.org about a://b") == "mail ada@example.org about a://b"
    assert "pass" not in repr(Tracker(uri="http://ada:pass@h", experiment="e", run_id="r"))
    assert ui_command("http://ada:pass@tracking:5000") == "open http://***@tracking:5000"
    config = build_config(
        {
            "prepare": {"evaluation_sets": {"hf_token": "abc", "xquad-r": "https://ada:pass@h/x"}},
            "tracking": {"uri": "http://ada:pass@tracking:5000"},
        }
    )
    tracker = Tracker.start(sqlite_uri, "hbt", "secret", config, StoragePath.of(tmp_path / "id"))
    tracker.set_tags({"api_key": "abc", "place": "ftp://ada:pass@h"})
    run = _run_of(tracker)
    assert run.data.params["prepare.evaluation_sets.hf_token"] == run.data.tags["api_key"] == "***"
    assert run.data.params["prepare.evaluation_sets.xquad-r"] == "https://***@h/x"
    assert not any("pass" in value for value in [*run.data.params.values(), *run.data.tags.values()] if "://" in value)


def test_a_real_server_takes_runs_metrics_artifacts_and_models(server_uri: str, tmp_path: Path, model_dir: Path):
    import mlflow

    id_file = tmp_path / "mlflow_run_id"
    tracker = Tracker.start(server_uri, "hbt", "remote", CONFIG, StoragePath.of(id_file))
    tracker.log_metrics({"loss": 1.0, "xquad-r/mono/ndcg@10": 0.25, "nothing": math.nan}, step=1)
    tracker.log_dataset("small", "0123456789abcdef", "/data/store", {"items": 3}, "training")
    tracker.log_text("seed: 7", "config.yaml")
    uri = tracker.log_model(model_dir)
    with tracker.system_metrics(interval_s=0.1):
        time.sleep(0.3)
    tracker.finish()
    assert Tracker.start(server_uri, "hbt", "remote", CONFIG, StoragePath.of(id_file)).run_id == tracker.run_id

    (run,) = training_runs(server_uri, "hbt")
    assert run.metrics["xquad-r/mono/ndcg_at_10"] == 0.25
    assert math.isnan(run.metrics["nothing"])
    assert run.params["mix.alpha"] == "0.6"
    mlflow.set_tracking_uri(server_uri)
    assert mlflow.artifacts.load_text(f"runs:/{run.run_id}/config.yaml") == "seed: 7"
    assert mlflow.sentence_transformers.load_model(uri).encode(SENTENCES).shape == (3, 16)
    assert ui_command(server_uri) == f"open {server_uri}"
