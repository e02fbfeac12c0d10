"""A trained encoder in the format that MLflow loads."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any


def write_mlflow_model(model_dir: Path, folder: Path, description: Any) -> None:
    """An MLflow model folder around a sentence-transformers one. Its requirements are stated, not inferred by a run."""
    from sentence_transformers import SentenceTransformer

    from hbt_ray.models.encoder import without_progress_bars

    packages = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch")
    with without_progress_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about its own types
        import mlflow.sentence_transformers

        mlflow.sentence_transformers.save_model(
            SentenceTransformer(str(model_dir), device="cpu", local_files_only=True),
            str(folder),
            mlflow_model=description,
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages],
            create_model_card=False,
        )
