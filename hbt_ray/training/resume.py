"""Opening the folder of a run: a new one, or one to resume, which requires settings that lead to the same result."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from hbt_ray.config import PretrainConfig, PretrainRunConfig, RunConfig, TrainConfig, build, flatten
from hbt_ray.errors import ConfigError
from hbt_ray.training.run_dir import AnyRun, RunDir, run_dir_of
from hbt_ray.training.run_inputs import way_out

# Settings of `train` and `pretrain` that say where and how a training is executed.
_EXECUTION = (
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
# Settings that may differ when a run resumes, as prefixes of their full names.
WITHOUT_EFFECT = (
    "name",
    "storage",
    "tracking.",
    "evaluate.",
    "mine.",
    *(f"{loop.section}.{name}" for loop in (TrainConfig, PretrainConfig) for name in _EXECUTION),
)


def open_run(config: AnyRun, out: str | Path, *, fresh: bool = False, root: Path | None = None) -> RunDir:
    """Return the folder of a run, after a check that the run may resume what the folder holds.

    Args:
        config: of the run.
        out: the folder, which need not exist.
        fresh: first delete what an earlier run left there.
        root: folder of the study that the run belongs to.

    Raises:
        ConfigError: the folder holds a run whose settings would give another result.
    """
    folder = run_dir_of(config, out, root)
    if fresh:
        _delete_run(folder)
    if folder.config.exists():
        changed = changed_settings(_stored_config(folder, config), config)
        if changed:
            key, before, now = changed[0]
            raise ConfigError(
                f"{folder.storage} holds a run with {key}={before}, and this one has {now}; {way_out(folder, root)}"
            )
    return folder


def changed_settings(before: AnyRun, now: AnyRun) -> list[tuple[str, object, object]]:
    """Return the settings that differ and change the result: key, value before, value now."""
    flat_before, flat_now = flatten(before), flatten(now)
    return [
        (key, flat_before.get(key), flat_now.get(key))
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key) != flat_now.get(key) and not key.startswith(WITHOUT_EFFECT)
    ]


def _stored_config(folder: RunDir, expected: AnyRun) -> AnyRun:
    """Read the configuration of the run in a folder. Raises ConfigError if it is not of `expected`'s type."""
    data = yaml.safe_load(folder.config.read_text())
    stored_type: type[AnyRun] = PretrainRunConfig if "pretrain" in data else RunConfig
    if not isinstance(expected, stored_type):
        stage = "pretraining" if stored_type is PretrainRunConfig else "training"
        raise ConfigError(f"{folder.storage} holds a {stage}; write another --out, or --fresh to start over")
    return build(stored_type, data)


def _delete_run(folder: RunDir) -> None:
    for path in (folder.checkpoints, folder.checkpoint_metrics, folder.config, folder.tracking_id):
        path.delete()
    for output in (folder.model, folder.initial_model, folder.evaluations):
        shutil.rmtree(output, ignore_errors=True)
