"""One run's folder: what stands where, and whether a run may go on in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hbt_ray.config import RunConfig, dump_config, flatten, load_config
from hbt_ray.errors import ConfigError

# Settings that say where and how a run is carried out, not what comes out of it.
WITHOUT_EFFECT = ("name", "tracking.", "evaluate.", "train.max_failures", "train.checkpoint", "train.threads_per_worker")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one training run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def initial_model(self) -> Path:
        """The encoder that training starts from, where it is made from nothing."""
        return self.path / "initial_model"

    @property
    def model(self) -> Path:
        """The trained encoder, a sentence-transformers folder."""
        return self.path / "model"

    @property
    def tracking_id(self) -> Path:
        """Holds the id of the run's MLflow run."""
        return self.path / "mlflow_run_id"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def stores(self) -> Path:
        """Token stores, shared by the runs that stand side by side."""
        return self.path.parent / "stores"

    @property
    def evaluations(self) -> Path:
        """A folder per benchmark, with the report's files."""
        return self.path / "evaluation"


def open_run(config: RunConfig, out: str | Path, *, fresh: bool = False) -> RunFolder:
    """Makes a run's folder, or returns to one that an earlier call left.

    Raises:
        ConfigError: the folder holds a run whose settings would give another result.
    """
    folder = RunFolder(Path(out).expanduser().resolve())
    if fresh and folder.config.exists():
        shutil.rmtree(folder.path)
    if folder.config.exists():
        changed = changed_settings(load_config(folder.config), config)
        if changed:
            key, before, now = changed[0]
            raise ConfigError(
                f"{folder.path} holds a run with {key}={before}, and this one has {now}; "
                "write another --out, or --fresh to start over"
            )
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(dump_config(config), encoding="utf-8")
    return folder


def changed_settings(before: RunConfig, now: RunConfig) -> list[tuple[str, object, object]]:
    """Settings that differ and change the result: key, value before, value now."""
    flat_before, flat_now = flatten(before), flatten(now)
    return [
        (key, flat_before.get(key), flat_now.get(key))
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key) != flat_now.get(key) and not key.startswith(WITHOUT_EFFECT)
    ]
