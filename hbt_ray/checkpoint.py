"""Checkpoints: a folder with the weights, the optimizer's moments and the step, complete or invisible."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, load_model, save_file, save_model
from sentence_transformers import SentenceTransformer

from hbt_ray.errors import CheckpointError
from hbt_ray.progress import Progress
from hbt_ray.store import file_sha256
from hbt_ray.trainer import Trainer

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)
COMPLETE = "complete.json"


def save_checkpoint(folder: str | Path, trainer: Trainer, progress: Progress) -> None:
    """Writes a checkpoint. The marker with every file's checksum comes last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMPLETE).unlink(missing_ok=True)
    save_model(trainer.encoder, str(folder / WEIGHTS))  # once what several names share, as T5's embeddings
    save_file(trainer.optimizer_state(), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    sums = {file: file_sha256(folder / file) for file in FILES}
    (folder / COMPLETE).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def is_complete(folder: str | Path) -> bool:
    """Whether a checkpoint has its marker and every file is as it was written."""
    folder = Path(folder)
    try:
        sums = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return all(file_sha256(folder / file) == sums[file] for file in FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_progress(folder: str | Path) -> Progress:
    return Progress(**json.loads((Path(folder) / STATE).read_text(encoding="utf-8")))


def load_checkpoint(folder: str | Path, trainer: Trainer) -> Progress:
    """Puts a checkpoint's weights and moments into a trainer made with the same configuration.

    Raises:
        CheckpointError: it is torn or changed.
    """
    folder = Path(folder)
    if not is_complete(folder):
        raise CheckpointError(
            f"the checkpoint {folder} is incomplete or damaged; delete it to go on from the one before"
        )
    load_weights(folder, trainer.encoder)
    trainer.load_optimizer_state(load_file(folder / OPTIMIZER))
    return read_progress(folder)


def load_weights(folder: str | Path, encoder: SentenceTransformer) -> None:
    """Puts a checkpoint's weights into an encoder made with the same configuration."""
    load_model(encoder, Path(folder) / WEIGHTS)
