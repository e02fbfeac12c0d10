"""Encoders as MLflow models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hbt_ray.errors import TrackingError
from hbt_ray.models.encoder import load_pretrained, save_encoder
from tests.helpers import model_folders
from tests.unit.tracking.conftest import SENTENCES, StartRun, run_of

pytestmark = pytest.mark.usefixtures("no_mlflow_environment")


def test_logged_model_embeds_as_the_model_that_was_logged(
    sqlite_uri: str, start_run: StartRun, model_dir: Path, set_tracking_uri
):
    import mlflow
    from mlflow import MlflowClient
    from sentence_transformers import SentenceTransformer

    tracker = start_run("model")
    uri = tracker.log_model(model_dir, "Tiny: one", step=600)
    logged = MlflowClient(sqlite_uri).get_logged_model(uri.removeprefix("models:/"))
    assert logged.source_run_id == tracker.run_id
    assert [output.model_id for output in run_of(tracker).outputs.model_outputs] == [logged.model_id]

    expected = SentenceTransformer(str(model_dir), device="cpu").encode(SENTENCES)  # (3, 16)
    folder = Path(logged.artifact_location.removeprefix("file://"))
    without_mlflow = SentenceTransformer(str(folder / "model.sentence_transformer"), device="cpu")
    np.testing.assert_array_equal(without_mlflow.encode(SENTENCES), expected)
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert "transformers==5.23.0" in requirements
    assert "mlflow==3.17.2" in requirements

    set_tracking_uri(sqlite_uri)
    for model_uri in (uri, f"runs:/{tracker.run_id}/tiny-one"):
        loaded = mlflow.sentence_transformers.load_model(model_uri)
        np.testing.assert_array_equal(loaded.encode(SENTENCES, device="cpu"), expected)
    served = mlflow.pyfunc.load_model(uri).predict(SENTENCES)
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-6)


def test_served_model_applies_the_prompt_of_queries(
    sqlite_uri: str, start_run: StartRun, model_dir: Path, tmp_path: Path, set_tracking_uri
):
    import mlflow
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model_dir), device="cpu", prompts={"query": "who ", "document": ""})
    encoder.save(str(tmp_path / "prompted"))
    uri = start_run("prompted").log_model(tmp_path / "prompted", "prompted")
    set_tracking_uri(sqlite_uri)
    served = mlflow.pyfunc.load_model(uri).predict(SENTENCES)
    np.testing.assert_allclose(served, encoder.encode_query(SENTENCES), rtol=0, atol=1e-6)
    assert np.abs(served - encoder.encode_document(SENTENCES)).max() > 1e-3
    loaded = mlflow.sentence_transformers.load_model(uri)
    np.testing.assert_allclose(
        loaded.encode_document(SENTENCES, device="cpu"), encoder.encode_document(SENTENCES), rtol=0, atol=1e-6
    )


def test_model_with_code_is_logged_where_its_code_is_trusted(start_run: StartRun, tmp_path: Path):
    with_code = str(model_folders.write_with_code(tmp_path / "initial"))
    save_encoder(load_pretrained(with_code, trust_remote_code=True), tmp_path / "model")
    tracker = start_run("code")
    with pytest.raises(TrackingError, match=r"custom code .*; write tracking.log_model=false"):
        tracker.log_model(tmp_path / "model", "code")
    uri = tracker.log_model(tmp_path / "model", "code", trust_remote_code=True)
    assert [f"models:/{output.model_id}" for output in run_of(tracker).outputs.model_outputs] == [uri]
