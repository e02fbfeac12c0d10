"""Opening the folder of a run: a new one, or one to resume, which requires settings that lead to the same result."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hbt_ray.config import (
    PretrainConfig,
    PretrainRunConfig,
    RunConfig,
    TrainConfig,
    build,
    expand_environment,
    flatten,
    flatten_settings,
    parse_yaml,
    redacted_settings,
    with_absolute_paths,
)
from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.training import extension
from hbt_ray.training.previous_run import recover_replaced
from hbt_ray.training.run_dir import AnyRun, RunDir, run_dir_of
from hbt_ray.training.run_inputs import way_out

# Settings of `train` and `pretrain` that say where and how a training is executed.
_EXECUTION = (
    "best_by",
    "checkpoint_every",
    "checkpoint_minutes",
    "checkpoints_kept",
    "collective_timeout_s",
    "embedding_gradient",
    "evaluate_every",
    "gpu",
    "kept_activations_mib",
    "max_failures",
    "step_timeout_s",
    "threads_per_worker",
    "vocabulary",
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


def open_run(config: AnyRun, out: str | Path, *, fresh: bool = False) -> RunDir:
    """Return the folder of a run, after a check that the run may write to it. Nothing of the run is changed.

    What an interrupted start of a run over another left there is put in order first; see `previous_run.py`.

    Args:
        config: of the run.
        out: the folder, which need not exist.
        fresh: replace the run that the folder holds, instead of resuming it.

    Raises:
        ConfigError: the folder holds a run whose settings would give another result, or files that no run wrote, or
            an input of this run is among the files that it would replace.
    """
    folder = run_dir_of(config, out)
    recover_replaced(folder)
    _check_outputs(config, folder)
    return folder if fresh else resumable_run(config, out)


def resumable_run(config: AnyRun, out: str | Path, root: Path | None = None) -> RunDir:
    """Return the folder of a run, after a check that the run may resume what the folder holds.

    Args:
        config: of the run.
        out: the folder, which need not exist.
        root: folder of the study that the run belongs to.

    Raises:
        ConfigError: the folder holds a run whose settings would give another result, or checkpoints of no known run.
    """
    folder = run_dir_of(config, out, root)
    if not folder.config.exists() and folder.checkpoints.exists():
        raise ConfigError(f"{folder.checkpoints} is there without {folder.config}; {way_out(folder, root)}")
    if folder.config.exists():
        stored = _stored_config(folder, config)
        changed = changed_settings(stored, config, root)
        if root is None and changed:
            changed = _without_extension(changed, stored, config, folder)
        if changed:
            key, before, now = changed[0]
            raise ConfigError(
                f"{folder.storage} holds a run with {key}={before}, and this one has {now}; {way_out(folder, root)}"
            )
    return folder


def _without_extension(
    changed: list[tuple[str, object, object]], stored: AnyRun, config: AnyRun, folder: RunDir
) -> list[tuple[str, object, object]]:
    """Return the changed settings without those that extend the run to more steps.

    Raises:
        ConfigError: nothing else has changed, and a run of more steps would have another result.
    """
    before, now = (run.train if isinstance(run, RunConfig) else run.pretrain for run in (stored, config))
    extending = [f"{now.section}.{name}" for name in extension.SETTINGS]
    others = [change for change in changed if change[0] not in extending]
    if now.steps <= before.steps or others:
        return changed
    fault = extension.extension_fault(before, now)
    if fault is not None:
        raise ConfigError(
            f"the run of {before.steps} steps in {folder.storage} cannot be extended to {now.steps}: {fault}; or write "
            f"model.path={folder.model} and another --out to train its model further, or --fresh to start over"
        )
    return []


def _check_outputs(config: AnyRun, folder: RunDir) -> None:
    """Check that what the run would replace is an earlier run's, and no input of this one.

    Raises:
        ConfigError: it is not.
    """
    written_first = (folder.inputs, folder.evaluated_with)  # before `run.yaml`
    existing = [path for path in folder.outputs if path not in written_first and path.exists()]
    if existing and not _is_run(folder):
        raise ConfigError(
            f"{existing[0]} is not of a run of hbt_ray: {folder.storage} has no run.yaml of one; write another --out"
        )
    for key, value in flatten(config).items():
        # A value with a NUL is no path.
        if isinstance(value, str) and "\0" not in value and (given := Path(value).expanduser()).exists():
            inside = [path for path in folder.outputs if path.local and given.resolve().is_relative_to(path.local)]
            if inside:
                raise ConfigError(
                    f"{key}={value} is in {inside[0]}, which this run would replace; copy it, or write another --out"
                )


def _is_run(folder: RunDir) -> bool:
    """Return whether a folder holds a run, even if its `run.yaml` is damaged or of another version."""
    if not folder.config.exists():
        return False
    if folder.tracking_id.exists():
        return True
    with contextlib.suppress(ConfigError, StorageError, UnicodeDecodeError):
        data = parse_yaml(folder.config.read_text(), folder.config)
        return isinstance(data, dict) and "corpora" in data and not {"train", "pretrain"}.isdisjoint(data)
    return False


def changed_settings(before: AnyRun, now: AnyRun, root: Path | None = None) -> list[tuple[str, object, object]]:
    """Return the settings that differ and change the result: key, value before, value now.

    Args:
        before: the run in the folder.
        now: this run.
        root: folder of the study that the run belongs to. It may have been moved: paths in it are compared from there,
            as `run_inputs.py` compares what they hold.
    """
    flat_before, flat_now = (flatten_settings(redacted_settings(one.model_dump(mode="json"))) for one in (before, now))
    without_effect = WITHOUT_EFFECT
    if flat_now.get("train.gather_negatives") is False:  # then each worker has negatives of its own
        without_effect = tuple(key for key in WITHOUT_EFFECT if key != "train.workers")
    return [
        (key, flat_before.get(key), flat_now.get(key))
        for key in sorted(flat_before.keys() | flat_now.keys())
        if not _is_same(flat_before.get(key), flat_now.get(key), root) and not key.startswith(without_effect)
    ]


def _is_same(before: object, now: object, root: Path | None) -> bool:
    if root is None or not isinstance(before, str) or not isinstance(now, str) or not Path(now).is_relative_to(root):
        return before == now
    return before.endswith(f"/{Path(now).relative_to(root).as_posix()}")


def _stored_config(folder: RunDir, expected: AnyRun) -> AnyRun:
    """Read the configuration of the run in a folder.

    Raises:
        ConfigError: it cannot be read, or is not of `expected`'s type.
    """
    try:
        data = parse_yaml(folder.config.read_text(), "it")
        if not isinstance(data, dict):
            raise ConfigError("it holds no settings")
        stored_type: type[AnyRun] = PretrainRunConfig if "pretrain" in data else RunConfig
        stored = with_absolute_paths(build(stored_type, expand_environment(data, keep_missing=True)))
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(
            f"{folder.config} cannot be read ({' '.join(str(error).split())[:200]}), so its run cannot be resumed; "
            "write another --out, or --fresh to start over"
        ) from None
    if not isinstance(expected, stored_type):
        stage = "pretraining" if stored_type is PretrainRunConfig else "training"
        raise ConfigError(f"{folder.storage} holds a {stage}; write another --out, or --fresh to start over")
    return stored
