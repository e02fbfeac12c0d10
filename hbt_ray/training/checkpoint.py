"""Checkpoints: a folder with the weights, the optimizer's moments and the step, complete or invisible."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hbt_ray.config import LoopConfig
from hbt_ray.errors import CheckpointError, StorageError
from hbt_ray.training.train_state import TrainState, is_finished
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.storage import StoragePath, file_sha256

if TYPE_CHECKING:  # what takes seconds to import, and whoever looks for checkpoints alone need not wait for it
    from torch import nn

    from hbt_ray.training.base_trainer import BaseTrainer

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)
COMPLETE = "complete.json"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint says of itself."""

    progress: TrainState
    metrics: dict[str, float]  # measured for it: "loss", and "validation_loss" where it was validated


class CheckpointManager:
    """The checkpoints of one run, each in a folder named by its step.

    What is written is invisible until its marker, with every file's checksum, stands beside it. What is
    read is compared with the checksums first.
    """

    def __init__(self, place: StoragePath) -> None:
        self.place = place

    def save(self, trainer: BaseTrainer[Any], progress: TrainState, metrics: dict[str, float]) -> StoragePath:
        """Writes a checkpoint.

        Raises:
            CheckpointError: the storage fails. What was written of this one is deleted; those before it stay.
        """
        place = self.place / step_name(progress.step)
        state = CheckpointState(progress, metrics)
        try:
            (place / COMPLETE).delete()
            if place.local:
                _write(place.local, trainer, state)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    _write(Path(folder), trainer, state)
                    place.upload(Path(folder), last=COMPLETE)
        except (OSError, SafetensorError, StorageError) as error:
            with contextlib.suppress(StorageError):
                place.delete()
            reason = getattr(error, "strerror", None) or error
            steps = self.steps()
            kept = f"that of step {steps[-1]} is kept" if steps else "there is none before it"
            raise CheckpointError(
                f"the checkpoint of step {progress.step} cannot be written to {self.place} ({reason}); {kept}: "
                "make room or mend the storage, and run the same command again"
            ) from error
        return place

    def steps(self) -> list[int]:
        """Steps of the checkpoints that have their marker, the newest last."""
        return [step for step in self._begun() if (self.place / step_name(step) / COMPLETE).exists()]

    def has_ended(self, train: LoopConfig) -> bool:
        """Whether there is nothing to go on with: the newest checkpoint is the last one of the training, and whole."""
        steps = self.steps()
        try:
            if not steps or not is_finished(self.state(steps[-1]).progress, train):
                return False
        except (ValueError, KeyError, TypeError, StorageError):  # damaged: whoever loads it skips it
            return False
        with self._fetched(steps[-1]) as folder:
            return validate_checkpoint(folder) is None

    def _begun(self) -> list[int]:
        """Steps of the checkpoints of which anything stands, the newest last."""
        return [int(name.removeprefix("step-")) for name in self.place.names() if name.startswith("step-")]

    def load_newest(self, trainer: BaseTrainer[Any]) -> tuple[TrainState | None, list[str]]:
        """Loads the newest checkpoint that is whole, as `load` does.

        Returns:
            Where it left off, None where there is no whole one; and why newer ones were passed over.
        """
        faults: list[str] = []
        for step in reversed(self._begun()):
            with self._fetched(step) as folder:
                fault = validate_checkpoint(folder)
                if fault is None:
                    return _load(folder, trainer), faults
            faults.append(f"{self.place / step_name(step)} is passed over: {fault}")
        return None, faults

    def best(self, metric: str) -> int | None:
        """The step whose `metric` is lowest, among checkpoints that were measured for it; the earliest of equals."""
        measured = {step: self.state(step).metrics.get(metric) for step in self.steps()}
        known = {step: value for step, value in measured.items() if value is not None}
        return min(known, key=lambda step: (known[step], step)) if known else None

    def to_keep(self, train: LoopConfig) -> int:
        """The step whose weights an ended training gives: the last one's, or with early stopping the best one's.

        Raises:
            CheckpointError: there is none.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"training ended without a checkpoint in {self.place}; run it again")
        best = self.best("validation_loss") if train.early_stopping else None
        return steps[-1] if best is None else best

    def state(self, step: int) -> CheckpointState:
        return _state_from((self.place / step_name(step) / STATE).read_text())

    def load(self, step: int, trainer: BaseTrainer[Any]) -> TrainState:
        """Puts a checkpoint's weights and moments into a trainer made with the same configuration.

        Raises:
            CheckpointError: it is torn or changed.
        """
        with self._fetched(step) as folder:
            _check(folder)
            return _load(folder, trainer)

    def load_weights(self, step: int, kept: nn.Module) -> None:
        """Puts a checkpoint's weights into an encoder, or whatever it holds, made alike. Raises as `load` does."""
        with self._fetched(step) as folder:
            _check(folder)
            _load_weights(kept, folder / WEIGHTS)

    def prune(self, keep: int, best_by: str | None, spared: Collection[int] = ()) -> None:
        """Deletes all but the newest `keep`, the best by a metric, and some that are needed as yet."""
        steps = self.steps()
        kept = {*steps[-keep:], *spared, self.best(best_by) if best_by and len(steps) > keep else None}
        for step in steps:
            if step not in kept:
                (self.place / step_name(step) / COMPLETE).delete()  # first, so that a torn deletion is no checkpoint
                (self.place / step_name(step)).delete()

    @contextlib.contextmanager
    def _fetched(self, step: int) -> Iterator[Path]:
        """A checkpoint's folder on this machine."""
        place = self.place / step_name(step)
        if place.local:
            yield place.local
            return
        with tempfile.TemporaryDirectory() as folder:
            place.download(Path(folder))
            yield Path(folder)


def step_name(step: int) -> str:
    return f"step-{step:09d}"


def _state_from(text: str) -> CheckpointState:
    data = json.loads(text)
    return CheckpointState(TrainState(**data["progress"]), data["metrics"])


def validate_checkpoint(folder: Path) -> str | None:
    """Why a folder is no whole checkpoint; None if it is one."""
    try:
        sums = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        for file in FILES:
            if file_sha256(folder / file) != sums[file]:
                return f"{file} is not as it was written"
    except FileNotFoundError as error:
        return f"it has no {Path(error.filename).name}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{COMPLETE} cannot be read"
    return None


def _check(folder: Path) -> None:
    fault = validate_checkpoint(folder)
    if fault is not None:
        raise CheckpointError(f"the checkpoint {folder} is torn or damaged: {fault}; delete it to go on without it")


def _load(folder: Path, trainer: BaseTrainer[Any]) -> TrainState:
    from safetensors.torch import load_file

    _load_weights(trainer.checkpointed_module, folder / WEIGHTS)
    trainer.load_optimizer_state(load_file(folder / OPTIMIZER))
    return _state_from((folder / STATE).read_text(encoding="utf-8")).progress


def _write(folder: Path, trainer: BaseTrainer[Any], state: CheckpointState) -> None:
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _save_weights(trainer.checkpointed_module, folder / WEIGHTS)
    save_file(trainer.optimizer_state(), folder / OPTIMIZER)
    described: dict[str, Any] = {"progress": asdict(state.progress), "metrics": state.metrics}
    (folder / STATE).write_text(json.dumps(described), encoding="utf-8")
    sums = {file: file_sha256(folder / file) for file in FILES}
    atomic_write_text(folder / COMPLETE, json.dumps(sums, indent=1))


def _save_weights(kept: nn.Module, file: Path) -> None:
    """All weights, or adapters alone: what they stand beside is the model that the run begins with."""
    from safetensors.torch import save_file, save_model

    from hbt_ray.models.lora import adapter_weights

    if adapters := adapter_weights(kept):
        save_file(adapters, file)
    else:
        save_model(kept, str(file))  # once what several names share, as T5's embeddings


def _load_weights(kept: nn.Module, file: Path) -> None:
    from safetensors.torch import load_file, load_model

    from hbt_ray.models.lora import adapter_weights

    if adapters := adapter_weights(kept):
        saved = load_file(file)
        for name, weight in adapters.items():
            weight.copy_(saved[name])
    else:
        load_model(kept, file)
