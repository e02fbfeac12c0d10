"""Checkpoints: folders with the weights, the optimizer's moments and the progress, complete or ignored.

A checkpoint is the folder `step-<step>` with `weights.safetensors`, `optimizer.safetensors` and `state.json`.
`complete.json`, with the checksum of each, is written last and deleted first. A checkpoint is complete if
`complete.json` exists and all checksums match.

Ray Train's controller imports this module, so it loads torch only when weights are read or written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safetensors import SafetensorError

from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.data.manifest import read_manifest
from hbt_ray.data.zero_shot import keep_decontaminated
from hbt_ray.errors import CheckpointError, StorageError
from hbt_ray.training.lr_schedule import learning_rate
from hbt_ray.training.train_state import TrainState, is_finished
from hbt_ray.utils.atomic_write import atomic_folder, atomic_write_text, make_readable
from hbt_ray.utils.digests import damaged_file, file_checksums, without_checksum
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)
COMPLETE = "complete.json"
_NAME = re.compile(r"step-\d{9,}", re.ASCII)

logger = logging.getLogger(__name__)


class CheckpointableTrainer(Protocol):
    """What a checkpoint needs of a `BaseTrainer`."""

    checkpointed_module: nn.Module
    train: LoopConfig

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors by name."""

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Replace the optimizer's tensors."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The content of a checkpoint's `state.json`."""

    progress: TrainState
    metrics: dict[str, float]  # "loss", and "validation_loss" if the step was validated


class CheckpointManager:
    """Writes, reads and deletes the checkpoints of one run."""

    def __init__(self, path: StoragePath) -> None:
        self.path = path

    def save(self, trainer: CheckpointableTrainer, progress: TrainState, metrics: dict[str, float]) -> StoragePath:
        """Write a checkpoint; return its path.

        Raises:
            CheckpointError: the storage failed. The incomplete checkpoint is deleted; earlier ones are kept.
        """
        path = self.path / step_name(progress.step)
        state = CheckpointState(progress, metrics)
        try:
            (path / COMPLETE).delete()
            if path.local:
                _write(path.local, trainer, state)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    _write(Path(folder), trainer, state)
                    path.upload(Path(folder), last=COMPLETE)
        except (OSError, SafetensorError, StorageError) as error:
            with contextlib.suppress(StorageError):
                path.delete()
            reason = getattr(error, "strerror", None) or error
            steps = self.steps()
            kept = f"that of step {steps[-1]} is kept" if steps else "there is none before it"
            raise CheckpointError(
                f"the checkpoint of step {progress.step} cannot be written to {self.path} ({reason}); {kept}: "
                "free space or repair the storage, and run the same command again"
            ) from error
        return path

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that have a `complete.json`, ascending. Checksums are not compared."""
        return [step for step in self._all_steps() if (self.path / step_name(step) / COMPLETE).exists()]

    def has_ended(self, train: LoopConfig) -> bool:
        """Return True if the newest checkpoint is complete and is that of the end of the training."""
        steps = self.steps()
        try:
            if not steps or not is_finished(self.state(steps[-1]).progress, train):
                return False
        except CheckpointError:  # it is skipped when checkpoints are loaded
            return False
        with self._local_copy(steps[-1]) as folder:
            return validate_checkpoint(folder) is None

    def load_newest(self, trainer: CheckpointableTrainer) -> tuple[TrainState | None, list[str]]:
        """Load the newest complete checkpoint into a trainer built with the same configuration.

        Returns:
            Its progress, or None if there is no complete checkpoint; and why each newer one was skipped, and each
            name that begins like a checkpoint's.
        """
        strays = [name for name in self.path.names() if name.startswith("step-") and not _NAME.fullmatch(name)]
        faults = [f"{self.path / name} is skipped: it has not the name of a checkpoint" for name in strays]
        for step in reversed(self._all_steps()):
            with self._local_copy(step) as folder:
                fault = validate_checkpoint(folder)
                if fault is None:
                    return _load(folder, trainer), faults
            faults.append(f"{self.path / step_name(step)} is skipped: {fault}")
        return None, faults

    def resume(self, trainer: CheckpointableTrainer) -> TrainState:
        """Load the newest complete checkpoint, if there is one; return the progress. What is skipped is logged."""
        progress, faults = self.load_newest(trainer)
        for fault in faults:
            logger.warning("%s", fault)
        return progress or TrainState()

    def load(self, step: int, trainer: CheckpointableTrainer) -> TrainState:
        """Load a checkpoint into a trainer built with the same configuration; return its progress.

        Raises:
            CheckpointError: it is incomplete or damaged.
        """
        with self._local_copy(step) as folder:
            _check(folder)
            return _load(folder, trainer)

    def load_weights(self, step: int, module: nn.Module) -> None:
        """Load only a checkpoint's weights into a module of the same architecture.

        Raises:
            CheckpointError: it is incomplete or damaged.
        """
        with self._local_copy(step) as folder:
            _check(folder)
            _load_weights(module, folder / WEIGHTS)

    def state(self, step: int) -> CheckpointState:
        """Read the progress and the metrics of a checkpoint. Raise CheckpointError if its file is damaged."""
        file = self.path / step_name(step) / STATE
        try:
            text = file.read_text()
            sums = _parse_sums((self.path / step_name(step) / COMPLETE).read_text())
            if hashlib.sha256(text.encode()).hexdigest() != sums[STATE]:
                raise ValueError("its checksum does not match")
            return _parse_state(text)
        except (StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is damaged; delete the checkpoint to continue without it") from error

    def best(self, metric: str) -> int | None:
        """Return the step with the lowest `metric` among checkpoints that have it, of equal ones the earliest.

        NaN is not the lowest. A damaged checkpoint is skipped with a warning.
        """
        known: dict[int, float] = {}
        for step in self.steps():
            try:
                value = self.state(step).metrics.get(metric)
            except CheckpointError as error:
                logger.warning("%s", error)
                continue
            if value is not None and not math.isnan(value):
                known[step] = value
        return min(known, key=lambda step: (known[step], step)) if known else None

    def final_step(self, train: LoopConfig) -> int:
        """Return the step whose weights a finished training exports: the last, or with early stopping the best.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"training ended without a checkpoint in {self.path}; run it again")
        best = self.best("validation_loss") if train.early_stopping else None
        return steps[-1] if best is None else best

    def prune(self, keep: int, best_by: str | None, also_keep: Collection[int] = ()) -> None:
        """Delete all checkpoints but the newest `keep`, the best by a metric, and those of the steps `also_keep`."""
        steps = self.steps()
        kept = {*steps[-keep:], *also_keep, self.best(best_by) if best_by and len(steps) > keep else None}
        for step in steps:
            if step not in kept:
                # First, so that an interrupted deletion leaves no complete checkpoint.
                (self.path / step_name(step) / COMPLETE).delete()
                (self.path / step_name(step)).delete()

    def _all_steps(self) -> list[int]:
        """Return the steps of complete and incomplete checkpoints, ascending. Other names are passed over."""
        return sorted(int(name[5:]) for name in self.path.names() if _NAME.fullmatch(name))

    @contextlib.contextmanager
    def _local_copy(self, step: int) -> Iterator[Path]:
        """Yield a checkpoint's folder on this machine, downloaded if it is in an object store."""
        path = self.path / step_name(step)
        if path.local:
            yield path.local
            return
        with tempfile.TemporaryDirectory() as folder:
            path.download(Path(folder))
            yield Path(folder)


def step_name(step: int) -> str:
    """Return the name of a checkpoint's folder; names sort by step."""
    return f"step-{step:09d}"


def validate_checkpoint(folder: Path) -> str | None:
    """Return why the checkpoint in a folder is incomplete or damaged, or None if it is complete."""
    try:
        sums = _parse_sums((folder / COMPLETE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {COMPLETE}"
    except (OSError, ValueError):
        return f"{COMPLETE} cannot be read"
    file = damaged_file(folder, sums)
    if file is None:
        return None
    return f"the checksum of {file} does not match" if (folder / file).is_file() else f"it has no {file}"


def _parse_sums(text: str) -> dict[str, str]:
    """Return the checksum of each file. Raise ValueError if the text is no object with all of them."""
    sums = without_checksum(text)
    if not sums.keys() >= set(FILES):
        raise ValueError("it does not have all files")
    return {file: sums[file] for file in FILES}


def load_checkpointed_encoder(
    config: RunConfig, initial_model: str, checkpoints: StoragePath, step: int, device: str = "cpu"
) -> SentenceTransformer:
    """Load the encoder as it was after a step; at step 0 the initial one.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged.
    """
    from hbt_ray.models.encoder import load_for_training

    encoder = load_for_training(config.model, config.text, initial_model, device=device)
    if step:
        CheckpointManager(checkpoints).load_weights(step, encoder)
    return encoder


def export_encoder(
    config: RunConfig, initial_model: str, store: str | Path, checkpoints: StoragePath, step: int, folder: Path
) -> None:
    """Write the encoder of `load_checkpointed_encoder` as a sentence-transformers folder, complete or not at all.

    With it the benchmarks are kept that its store was decontaminated against, and a record of its training.
    """
    from hbt_ray.models.encoder import save_encoder
    from hbt_ray.training.training_record import TrainingRecord

    record = TrainingRecord.of(config, read_manifest(store), step)
    encoder = load_checkpointed_encoder(config, initial_model, checkpoints, step)
    with atomic_folder(folder) as partial:
        save_encoder(encoder, partial)
        keep_decontaminated(Path(store), initial_model, partial)
        record.write(partial)


def _check(folder: Path) -> None:
    fault = validate_checkpoint(folder)
    if fault is not None:
        raise CheckpointError(
            f"the checkpoint {folder} is incomplete or damaged: {fault}; delete it to continue without it"
        )


def _load(folder: Path, trainer: CheckpointableTrainer) -> TrainState:
    from safetensors.torch import load_file

    from hbt_ray.models.vocabulary import fit_moments, occurring_embedding, saved_ids

    module = trainer.checkpointed_module
    progress = _parse_state((folder / STATE).read_text(encoding="utf-8")).progress
    occurring, saved = occurring_embedding(module), saved_ids(folder / WEIGHTS)
    if occurring is not None and saved is None:
        for step in range(progress.step):
            occurring.record_decay(learning_rate(step, trainer.train), trainer.train.weight_decay)
    _load_weights(module, folder / WEIGHTS)
    trainer.load_optimizer_state(fit_moments(load_file(folder / OPTIMIZER), module, saved))
    return progress


def _parse_state(text: str) -> CheckpointState:
    data = load_json(text)
    return CheckpointState(TrainState(**data["progress"]), data["metrics"])


def _write(folder: Path, trainer: CheckpointableTrainer, state: CheckpointState) -> None:
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _save_weights(trainer.checkpointed_module, folder / WEIGHTS)
    save_file(trainer.optimizer_state(), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
    make_readable(folder)
    atomic_write_text(folder / COMPLETE, json.dumps(file_checksums(folder, FILES), indent=1))


def _save_weights(module: nn.Module, file: Path) -> None:
    """Write all weights, or with LoRA only those of the adapters: the others are those of the initial model."""
    from safetensors.torch import save_file, save_model

    from hbt_ray.models.lora import adapter_weights

    if adapters := adapter_weights(module):
        save_file(adapters, file)
    else:
        save_model(module, str(file))  # stores a tensor that has several names, as T5's embeddings, once


def _load_weights(module: nn.Module, file: Path) -> None:
    """Load weights. If the file has not all rows of the word embeddings, a module with all must be the initial one."""
    from safetensors.torch import load_file, load_model

    from hbt_ray.models.lora import adapter_weights
    from hbt_ray.models.vocabulary import occurring_embedding, saved_ids, without_other_rows

    if adapters := adapter_weights(module):
        saved = load_file(file)
        for name, weight in adapters.items():
            weight.copy_(saved[name])
    elif (ids := saved_ids(file)) is not None and occurring_embedding(module) is None:
        with without_other_rows(module, ids):
            load_model(module, file)
    else:
        load_model(module, file)
