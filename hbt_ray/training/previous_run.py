"""An earlier run that `--fresh` sets aside, until the new run in its folder has a checkpoint.

It is moved to `replaced/` in the run's folder and storage: `run.yaml` last, and back first. So after an interruption

- `replaced/` without a `run.yaml` is a part of the run whose `run.yaml` is in the folder, and is moved back;
- `replaced/` with one, and a folder without one, means that the new run had not begun, and the earlier one is put back.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from hbt_ray.errors import StorageError
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.run_dir import RunDir
from hbt_ray.utils.storage import StoragePath

REPLACED = "replaced"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def starting_over(folder: RunDir, fresh: bool) -> Iterator[None]:
    """Set an earlier run aside if `fresh`; if the block raises before the new run has a checkpoint, put it back."""
    if fresh:
        _set_aside(folder)
    try:
        yield
    except BaseException:
        if _is_set_aside(folder) and not drop_replaced(folder):
            _restore(folder)
        raise
    drop_replaced(folder)


def drop_replaced(folder: RunDir) -> bool:
    """Delete the earlier run that was set aside, if the new one has a checkpoint; return whether it has one."""
    if not CheckpointManager(folder.checkpoints).steps():
        return False
    try:
        if _is_set_aside(folder):
            for path in reversed(_replaced_outputs(folder)):  # `run.yaml` last
                path.delete()
            _delete_empty(folder)
    except StorageError as error:
        logger.warning("the earlier run stays in %s (%s)", _replaced_folder(folder), error)
    return True


def recover_replaced(folder: RunDir) -> None:
    """Complete what an interrupted call began: a run is set aside as a whole or not at all."""
    if not _replaced_folder(folder).exists() and not (StoragePath.of(folder.path) / REPLACED).exists():
        return
    if not _is_set_aside(folder):
        _move_back(folder)
    elif not folder.config.exists():
        _put_back(folder)


def _set_aside(folder: RunDir) -> None:
    if _is_set_aside(folder) and not drop_replaced(folder):
        for path in folder.outputs:  # of a new run without a checkpoint: the earlier one is kept
            path.delete()
        return
    for path, replaced in reversed(list(zip(folder.outputs, _replaced_outputs(folder), strict=True))):
        path.move(replaced)


def _restore(folder: RunDir) -> None:
    place = _replaced_folder(folder)
    try:
        _put_back(folder)
        logger.warning("the new run has no checkpoint, so the earlier run is in %s again", folder.storage)
    except StorageError as error:
        logger.warning("the earlier run is kept in %s: it cannot be put back (%s)", place, error)


def _put_back(folder: RunDir) -> None:
    for path in folder.outputs:
        path.delete()
    _move_back(folder)


def _move_back(folder: RunDir) -> None:
    for path, replaced in zip(folder.outputs, _replaced_outputs(folder), strict=True):
        replaced.move(path)
    _delete_empty(folder)


def _delete_empty(folder: RunDir) -> None:
    for place in (_replaced_folder(folder), StoragePath.of(folder.path) / REPLACED):
        if not place.names():
            place.delete()


def _is_set_aside(folder: RunDir) -> bool:
    return _replaced_outputs(folder)[0].exists()


def _replaced_folder(folder: RunDir) -> StoragePath:
    return folder.storage / REPLACED


def _replaced_outputs(folder: RunDir) -> list[StoragePath]:
    """Return where each of the run's outputs is when it is set aside."""
    return RunDir(folder.path / REPLACED, _replaced_folder(folder)).outputs
