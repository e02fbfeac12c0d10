"""The encoder that a training gives: one of its checkpoints, in the encoder that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.config import RunConfig
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.utils.atomic_write import atomic_folder
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:  # what takes seconds to import, and Ray Train's controller need not wait for it
    from sentence_transformers import SentenceTransformer


def load_checkpointed_encoder(
    config: RunConfig, initial_model: str, checkpoints: StoragePath, step: int, device: str = "cpu"
) -> SentenceTransformer:
    """The encoder as it was after a step; at step 0 the one that training begins with.

    Raises:
        CheckpointError: the checkpoint of the step is torn or changed.
    """
    from hbt_ray.models.encoder import load_for_training

    encoder = load_for_training(config.model, config.text, initial_model, device=device)
    if step:
        CheckpointManager(checkpoints).load_weights(step, encoder)
    return encoder


def export_encoder(config: RunConfig, initial_model: str, checkpoints: StoragePath, step: int, folder: Path) -> None:
    """Writes that encoder as a sentence-transformers folder, which appears when it is whole. Raises likewise."""
    from hbt_ray.models.encoder import save_encoder

    encoder = load_checkpointed_encoder(config, initial_model, checkpoints, step)
    with atomic_folder(folder) as partial:
        save_encoder(encoder, partial)
