"""Tasks that read the passages of a benchmark, so that the driver holds ids and numbers of them, but no texts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from hbt_ray.cluster.task_pool import run_in_order
from hbt_ray.data.benchmarks.builder import PassageBlock
from hbt_ray.data.benchmarks.passage_files import PassageFile, read_blocks
from hbt_ray.data.text_files import READ_ERRORS, FilePart, open_binary, split_lines
from hbt_ray.retrieval.passage_windows import WindowedPassages, digest_windows, window_passages
from hbt_ray.utils.folder_lock import lock_folder
from hbt_ray.utils.shared_folder import PARTIAL
from hbt_ray.utils.string_column import write_strings

_PART_BYTES = 1 << 25  # of a file, that a task reads
_PASSAGES_PER_TASK = 1 << 16  # that a task cuts into windows


class PassageTasks:
    """Reads files of passages in tasks, which write the texts to a folder that every node can access.

    As many tasks run at a time as the cluster has CPUs; a task holds one block of passages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, file: PassageFile) -> Iterator[PassageBlock]:
        """Yield the blocks of a file in order, as `read_blocks` does, with texts in files."""
        reference = ray.put(file)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        jobs = ((reference, part, folder / f"{number:06}.arrow") for number, part in enumerate(_parts(file.path)))
        return run_in_order(read_part, jobs, "reading passages")

    def window(self, passages: Sequence[str], window_chars: int | None) -> WindowedPassages:
        """Return `window_passages`, its digests computed in tasks."""
        parts = range(0, len(passages), _PASSAGES_PER_TASK)
        jobs = ((passages[first : first + _PASSAGES_PER_TASK], window_chars) for first in parts)
        return window_passages(passages, window_chars, run_in_order(digest_windows, jobs, "reading passages"))


@contextlib.contextmanager
def passage_tasks(cache: Path) -> Iterator[PassageTasks]:
    """Yield `PassageTasks` with a new folder in a cache, which is deleted after the block.

    If this process is killed, `new_shared_folder` deletes it, the next time that vectors are made in the cache.
    """
    name = cache / f"passages-{os.getpid()}-{os.urandom(4).hex()}"
    folder = name.with_name(name.name + PARTIAL)
    try:
        with lock_folder(name):
            folder.mkdir()
            try:
                yield PassageTasks(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):  # it holds vectors
            cache.rmdir()


def _parts(path: Path) -> list[FilePart | None]:
    """Return the parts of a file that tasks read; None: a gzipped file, which cannot be divided, or a small one."""
    try:
        with open_binary(path):  # so it counts as a file that is read
            is_whole = path.name.endswith(".gz") or path.stat().st_size <= _PART_BYTES
            return [None] if is_whole else [*split_lines(path, _PART_BYTES)]
    except READ_ERRORS:
        return [None]  # whose reading is a fault


def read_part(file: PassageFile, part: FilePart | None, texts: Path) -> PassageBlock:
    """Return the passages of a part of a file as one block, and write their texts to a file, batch by batch."""
    blocks: list[PassageBlock] = []

    def batches() -> Iterator[pa.Array]:
        for block in read_blocks(file, part):
            blocks.append(replace(block, texts=texts))
            yield block.texts

    write_strings(texts, batches())
    return PassageBlock(
        file.path.name,
        file.language,
        pa.concat_arrays([block.ids for block in blocks]),
        texts,
        np.concatenate([block.lines for block in blocks]),
        [query for block in blocks for query in block.queries],
        [fault for block in blocks for fault in block.faults],
    )
