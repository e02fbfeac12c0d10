"""One run: what stands where in its folder, the order it trains in, and whether it may go on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hbt_ray.config import PretrainConfig, PretrainRunConfig, RunConfig, TrainConfig, build, dump_config, flatten
from hbt_ray.errors import ConfigError
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Settings that say where and how a run is carried out, not what comes out of it.
_OF_LOOPS = (
    "best_by",
    "checkpoint_every",
    "checkpoint_minutes",
    "checkpoints_kept",
    "collective_timeout_s",
    "evaluate_every",
    "gpu",
    "max_failures",
    "step_timeout_s",
    "threads_per_worker",
    "workers",
)
WITHOUT_EFFECT = (
    "name",
    "storage",
    "tracking.",
    "evaluate.",
    "mine.",
    *(f"{loop.section}.{name}" for loop in (TrainConfig, PretrainConfig) for name in _OF_LOOPS),
)
AnyRun = RunConfig | PretrainRunConfig


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one training run: what it is gone on from in its storage, what it leaves in its folder."""

    path: Path
    storage: StoragePath  # the folder itself, or a place that outlives this machine

    @property
    def config(self) -> StoragePath:
        return self.storage / "run.yaml"

    @property
    def tracking_id(self) -> StoragePath:
        """Holds the id of the run's MLflow run."""
        return self.storage / "mlflow_run_id"

    @property
    def checkpoints(self) -> StoragePath:
        return self.storage / "checkpoints"

    @property
    def measured(self) -> StoragePath:
        """A file for each checkpoint that was measured beside the training, named by its step."""
        return self.storage / "measured"

    @property
    def scratch(self) -> StoragePath:
        """What Ray Train writes while it runs."""
        return self.storage / "ray_train"

    @property
    def initial_model(self) -> Path:
        """The encoder that training starts from, where it is made from nothing."""
        return self.path / "initial_model"

    @property
    def model(self) -> Path:
        """The trained encoder, a sentence-transformers folder."""
        return self.path / "model"

    @property
    def evaluations(self) -> Path:
        """A folder per benchmark, with the report's files."""
        return self.path / "evaluation"

    @property
    def stores(self) -> Path:
        """Token stores, shared by the runs that stand side by side."""
        return self.path.parent / "stores"

    def begin(self, config: AnyRun) -> None:
        """Notes the configuration. Called when all that can be checked beforehand was found right."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(dump_config(config))


def run_dir_of(config: AnyRun, out: str | Path) -> RunDir:
    """Where a run lies. Raises ConfigError when its storage cannot be one."""
    path = Path(out).expanduser().resolve()
    return RunDir(path, StoragePath.of(config.storage) / path.name if config.storage else StoragePath.of(path))


def open_run(config: AnyRun, out: str | Path, *, fresh: bool = False) -> RunDir:
    """The folder of a run: a new one, or one that an earlier call left. With `fresh`, what a run left there is deleted.

    Raises:
        ConfigError: the folder holds a run whose settings would give another result.
    """
    folder = run_dir_of(config, out)
    if fresh:
        for place in (folder.checkpoints, folder.measured, folder.config, folder.tracking_id):
            place.delete()
        for left in (folder.model, folder.initial_model, folder.evaluations):
            shutil.rmtree(left, ignore_errors=True)
    if folder.config.exists():
        changed = changed_settings(_kept_config(folder, config), config)
        if changed:
            key, before, now = changed[0]
            raise ConfigError(
                f"{folder.storage} holds a run with {key}={before}, and this one has {now}; "
                "write another --out, or --fresh to start over"
            )
    return folder


def _kept_config(folder: RunDir, like: AnyRun) -> AnyRun:
    """The configuration that a folder holds. Raises ConfigError when it is of another kind of run."""
    data = yaml.safe_load(folder.config.read_text())
    kept: type[AnyRun] = PretrainRunConfig if "pretrain" in data else RunConfig
    if not isinstance(like, kept):
        what = "pretraining" if kept is PretrainRunConfig else "training"
        raise ConfigError(f"{folder.storage} holds a {what}; write another --out, or --fresh to start over")
    return build(kept, data)


def changed_settings(before: AnyRun, now: AnyRun) -> list[tuple[str, object, object]]:
    """Settings that differ and change the result: key, value before, value now."""
    flat_before, flat_now = flatten(before), flatten(now)
    return [
        (key, flat_before.get(key), flat_now.get(key))
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key) != flat_now.get(key) and not key.startswith(WITHOUT_EFFECT)
    ]


def initial_model(config: AnyRun, tokenizer: PreTrainedTokenizerFast, folder: RunDir) -> str:
    """The encoder that training starts from: the configured one, or one made from nothing beside the run."""
    if config.model.path is not None:
        return config.model.path
    from hbt_ray.models.encoder import (  # torch takes seconds to import, and is not always needed
        init_encoder,
        save_encoder,
    )

    save_encoder(init_encoder(config.model, config.encoder_text, tokenizer, seed=config.seed), folder.initial_model)
    return str(folder.initial_model)
