"""Files and folders that exist complete or not at all: written under a temporary name, then renamed.

A rename is atomic within one file system. Nothing is synced to the disk: after a power failure a file may be empty.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from hbt_ray.errors import DISK_FULL, FULL, HbtError, UserError


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """On a full disk, raise an OSError that names `path`: that of a write to an open file names none.

    Libraries in Rust, such as safetensors and tokenizers, raise errors of their own there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        if FULL in str(error) and not isinstance(error, HbtError):
            raise OSError(errno.ENOSPC, FULL, str(path)) from error
        raise


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Raise UserError if the file or folder that the user named for the block's output cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EEXIST, errno.EISDIR):
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); write another path") from None


def make_output_folder(folder: Path) -> None:
    """Make a folder that the user named for output. Raise UserError if it cannot be made or written."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@contextlib.contextmanager
def atomic_file(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` after the block, or is deleted if the block raises.

    Args:
        path: file in an existing folder.
        unique: several processes may write `path` at the same time, so each needs another temporary name.
    """
    partial = _partial_path(path, unique)
    try:
        with write_errors(path):
            yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to raise
            partial.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in an existing folder."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the path of a folder to make, which replaces the folder `path` after the block.

    If the block raises, `path` is unchanged and nothing is left of the new folder; what a killed call left behind is
    deleted first.
    """
    partial, earlier = _partial_path(path), path.with_name(f"{path.name}.earlier")
    _delete(partial)
    try:
        with write_errors(path):
            yield partial
            make_readable(partial)
    except BaseException:
        _delete(partial)  # on a full disk, what is left takes space from the next attempt
        raise
    # Renamed before it is deleted, because an interrupted deletion would leave a part of it under its name.
    _delete(earlier)
    if path.exists():
        path.rename(earlier)
    partial.rename(path)
    _delete(earlier)


def make_readable(folder: Path) -> None:
    """Let those read a folder's files who may read the folder: safetensors makes files that only their owner reads."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


@contextlib.contextmanager
def atomic_files(folder: Path, *, last: str, replaced: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder. After the block, its files and folders replace those of `folder`, whose others remain.

    The file `last` is complete only with the others: it is deleted before they are moved, and moved after them. So
    `folder` holds all earlier files, or no `last`, or all new files. If the block raises, it holds the earlier ones.

    Args:
        folder: an existing folder.
        last: a file that the block writes.
        replaced: names in `folder` that are deleted where the block does not write them.
    """
    partial = folder / f"{last}.partial"
    _delete(partial)
    try:
        partial.mkdir()
        with write_errors(folder):
            yield partial
        (folder / last).unlink(missing_ok=True)
        names = sorted(path.name for path in partial.iterdir())
        for name in {*names, *replaced} - {last}:
            target = folder / name
            if target.is_dir():
                shutil.rmtree(target)
            if name in names:
                os.replace(partial / name, target)
            else:
                target.unlink(missing_ok=True)
        os.replace(partial / last, folder / last)
    finally:
        _delete(partial)


def _delete(path: Path) -> None:
    """Delete a file or folder, or as much of it as can be, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _partial_path(path: Path, unique: bool = False) -> Path:
    return path.with_name(f"{path.name}.partial" + (f"-{uuid.uuid4().hex[:8]}" if unique else ""))
