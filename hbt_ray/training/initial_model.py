"""The encoder that a training starts from.

Ray Train's controller imports this module, so it loads torch only when an encoder has to be made.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hbt_ray.errors import ConfigError
from hbt_ray.training.run_dir import AnyRun, RunDir
from hbt_ray.utils.atomic_write import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def prepare_initial_model(config: AnyRun, tokenizer: PreTrainedTokenizerFast, folder: RunDir) -> str:
    """Write an untrained encoder unless `model.path` names one.

    Args:
        config: of the run.
        tokenizer: of an untrained encoder.
        folder: of the run; an untrained encoder is written to its `initial_model`.

    Returns:
        The folder or hub name of the encoder.
    """
    if config.model.path is not None:
        return config.model.path
    write_untrained(config, tokenizer, folder.initial_model)
    return str(folder.initial_model)


def find_initial_model(config: AnyRun, folder: RunDir) -> str:
    """Return the folder or hub name of the encoder that a run started from.

    Raises:
        ConfigError: its folder is gone.
    """
    if config.model.path is not None:
        return config.model.path
    if not folder.initial_model.is_dir():
        raise ConfigError(
            f"{folder.initial_model}, the encoder that the run started from, is gone; train the run again"
        )
    return str(folder.initial_model)


def write_untrained(config: AnyRun, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the untrained encoder of a configuration to a folder."""
    from hbt_ray.models.encoder import init_encoder, save_encoder

    encoder = init_encoder(config.model, config.encoder_text, tokenizer, seed=config.seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        save_encoder(encoder, partial)


def leave_to_workers(config: AnyRun, folder: RunDir) -> str:
    """Return the folder or hub name of the encoder that the workers of a new training start from.

    An untrained one is theirs to write, because they import what that takes anyhow; an earlier one is deleted.
    """
    if config.model.path is not None:
        return config.model.path
    shutil.rmtree(folder.initial_model, ignore_errors=True)
    return str(folder.initial_model)
