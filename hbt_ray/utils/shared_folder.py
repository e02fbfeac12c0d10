"""Folders that several commands share, such as token stores: made once, and made again when they are damaged.

While it is made, the folder is `<name>.partial`. A damaged one is `<name>.damaged` until its replacement is complete.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hbt_ray.utils.atomic_write import write_errors
from hbt_ray.utils.folder_lock import lock_folder, try_lock_folder

PARTIAL = ".partial"
DAMAGED = ".damaged"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def new_shared_folder(path: Path, find_fault: Callable[[Path], str | None], keep: str = "") -> Iterator[Path | None]:
    """Yield a new folder that becomes `path` after the block; or None if `path` is complete.

    1. Wait for a process that is making it.
    2. If it exists with a fault, rename it, and log a warning with the fault.
    3. Delete what killed or failed processes left next to it; of the newest one that failed, the file `keep` stays.

    If the block raises, only the file `keep` is left, in `<name>.partial`.

    Args:
        path: the folder, which need not exist.
        find_fault: returns why an existing folder is not complete; None if it is.
        keep: name of a file that says why a folder could not be made; "": none.

    Raises:
        StorageError: the folder cannot be written.
    """
    if path.exists() and find_fault(path) is None:  # it may be where nothing can be written
        yield None
        return
    with lock_folder(path, wait=True):
        fault = find_fault(path) if path.exists() else ""
        if fault is None:
            yield None
            return
        partial, damaged = path.with_name(path.name + PARTIAL), path.with_name(path.name + DAMAGED)
        delete_partials(path, keep, keep_newest=True)
        if fault:
            logger.warning("%s is set aside as %s, and made again: %s", path, damaged.name, fault)
            shutil.rmtree(damaged, ignore_errors=True)
            path.rename(damaged)
        partial.mkdir(parents=True)
        try:
            with write_errors(path):
                yield partial
        except BaseException:
            _keep_only(partial, keep)
            if partial.exists():
                delete_partials(path, keep, keep_newest=False)
            raise
        partial.rename(path)
        shutil.rmtree(damaged, ignore_errors=True)


def delete_partials(path: Path, keep: str, *, keep_newest: bool) -> None:
    """Delete the unfinished folders next to `path` whose processes have ended.

    Args:
        path: a folder whose lock this process holds. Its unfinished folders are deleted only if `keep_newest`.
        keep: name of a file.
        keep_newest: keep the newest of the other folders that has this file, with this file only.
    """
    found = [folder for folder in path.parent.glob(f"*{PARTIAL}*") if folder.is_dir()]
    others = [folder for folder in found if _name_of(folder) != path.name]
    with_file = [folder for folder in others if (folder / keep).is_file()] if keep_newest else []
    newest = max(with_file, key=lambda folder: folder.stat().st_mtime, default=None)
    for folder in others:
        with try_lock_folder(folder.with_name(_name_of(folder))) as locked:
            if locked and folder == newest:
                _keep_only(folder, keep)
            elif locked:
                shutil.rmtree(folder, ignore_errors=True)
    if keep_newest:
        for folder in set(found) - set(others):
            shutil.rmtree(folder)


def _name_of(partial: Path) -> str:
    return partial.name.partition(PARTIAL)[0]


def _keep_only(folder: Path, keep: str) -> None:
    """Delete all of a folder but a file; without that file, delete the folder."""
    for child in folder.iterdir() if folder.exists() else ():  # else its absence would hide the error that is raised
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        elif child.name != keep:
            child.unlink()
    if not (folder / keep).is_file():
        shutil.rmtree(folder, ignore_errors=True)
