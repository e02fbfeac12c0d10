"""Files and folders that exist complete or not at all: written under a temporary name, then renamed.

A rename is atomic within one file system. Nothing is synced to the disk: after a power failure a file may be empty.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` after the block, or is deleted if the block raises.

    Args:
        path: file in an existing folder.
        unique: several processes may write `path` at the same time, so each needs another temporary name.
    """
    partial = _partial_path(path, unique)
    try:
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

    If the block raises, `path` is unchanged. What an interrupted call left behind is deleted first.
    """
    partial = _partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


@contextlib.contextmanager
def atomic_shared_folder(path: Path, delete_on: type[BaseException] = BaseException) -> Iterator[Path]:
    """Yield a new temporary folder, which becomes `path` after the block unless another process made `path` first.

    For folders whose content is determined by their name, so that the first is as good as any.

    Args:
        path: folder that does not exist yet.
        delete_on: exceptions of the block after which the temporary folder is deleted. After others it is kept.
    """
    partial = _partial_path(path, unique=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except delete_on:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        partial.rename(path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not path.exists():
            raise


def _partial_path(path: Path, unique: bool = False) -> Path:
    return path.with_name(f"{path.name}.partial" + (f"-{uuid.uuid4().hex[:8]}" if unique else ""))
