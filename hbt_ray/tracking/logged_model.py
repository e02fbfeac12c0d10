"""A trained encoder in the format that MLflow loads."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any


def write_mlflow_model(model_dir: Path, folder: Path, description: Any) -> None:
    """An MLflow model folder around a sentence-transformers one. Its requirements are stated, not inferred by a run."""
    from sentence_transformers import SentenceTransformer

    packages = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch")
    with _no_chatter():
        import mlflow.sentence_transformers

        mlflow.sentence_transformers.save_model(
            SentenceTransformer(str(model_dir), device="cpu", local_files_only=True),
            str(folder),
            mlflow_model=description,
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages],
            create_model_card=False,
        )


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """Without progress bars for a second's work, and without MLflow's warnings about its own types."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
