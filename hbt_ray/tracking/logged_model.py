"""Log a trained encoder as an MLflow model, and register it in the Model Registry."""

from __future__ import annotations

import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.utils.atomic_write import make_readable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model

MODELS_SCHEME = "models:/"  # and a logged model's id


def log_encoder(
    client: MlflowClient, run_id: str, model_dir: Path, name: str, step: int, *, trust_remote_code: bool = False
) -> str:
    """Log a sentence-transformers folder as a model of a run.

    Args:
        client: of the run's store.
        run_id: of the run.
        model_dir: the sentence-transformers folder.
        name: of the logged model.
        step: optimizer step of its weights.
        trust_remote_code: run code from the folder.

    Returns:
        Its URI, `models:/<id>`.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name, source_run_id=run_id)
    description = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        write_mlflow_model(model_dir, folder, description, trust_remote_code=trust_remote_code)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    return f"{MODELS_SCHEME}{logged.model_id}"


def write_mlflow_model(model_dir: Path, folder: Path, description: Model, *, trust_remote_code: bool = False) -> None:
    """Write an MLflow model folder around a sentence-transformers one.

    `mlflow.pyfunc` embeds with `encode`, so the prompt of queries becomes its default; `encode_document` has its own.
    Its requirements are the installed versions of the packages that it needs; MLflow would infer them by loading it.

    Raises:
        ConfigError: the encoder needs the language of each text, which `encode` does not receive.
    """
    from sentence_transformers import SentenceTransformer

    from hbt_ray.data.model_files import check_needs_no_language
    from hbt_ray.models.encoder import without_progress_bars

    check_needs_no_language(str(model_dir))
    packages = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch")
    with without_progress_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about its own types
        import mlflow.sentence_transformers

        encoder = SentenceTransformer(
            str(model_dir), device="cpu", local_files_only=True, trust_remote_code=trust_remote_code
        )
        if encoder.prompts.get("query"):
            encoder.default_prompt_name = "query"
        mlflow.sentence_transformers.save_model(
            encoder,
            str(folder),
            mlflow_model=description,
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages],
            create_model_card=False,
        )
    make_readable(folder)


def register_version(client: MlflowClient, run_id: str, model_uri: str, name: str, alias: str, description: str) -> str:
    """Make a logged model the run's version of a registered model, and set an alias to it.

    Returns:
        The version: the one that the run already has, or a new one.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _version_of_run(client, run_id, name)
    if version is None:
        logged = client.get_logged_model(model_uri.removeprefix(MODELS_SCHEME))
        version = client.create_model_version(
            name,
            logged.artifact_location,
            run_id=run_id,
            model_id=logged.model_id,
            description=description,
        )
    client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)


def _version_of_run(client: MlflowClient, run_id: str, name: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name='{name}'")
    return next((version for version in versions if version.run_id == run_id), None)
