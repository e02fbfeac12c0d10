"""Passage vectors on disk: memory-mapped Arrow files, named by a fingerprint of the model and the texts.

Legend: N rows, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hbt_ray.errors import StoreError
from hbt_ray.utils.atomic_write import atomic_file, atomic_write_text
from hbt_ray.utils.digests import content_checksums, with_checksum, without_checksum
from hbt_ray.utils.storage import file_sha256

MANIFEST = "vectors.json"


def vectors_fingerprint(model: str, texts: str, *described: object) -> str:
    """Return 16 hex digits that identify the vectors of some texts under a model.

    Args:
        model: folder or hub name; of a folder, the bytes of its files are hashed.
        texts: fingerprint of the texts.
        described: what else the vectors depend on, such as prefix and precision.
    """
    digest = hashlib.sha256(repr((texts, *described)).encode())
    parts = [f"{name} {checksum}" for name, checksum in content_checksums(model).items()] or [model]
    digest.update("".join(parts).encode())
    return digest.hexdigest()[:16]


class VectorPart(NamedTuple):
    """A file of vectors, as the manifest describes it."""

    file: str
    size: int  # number of vectors
    sha256: str


def write_embedding_shard(folder: Path, number: int, vectors: np.ndarray) -> VectorPart:
    """Write vectors (N, D) float32 as a part. Raise StoreError if it cannot be written."""
    width = vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, width)})
    file = folder / f"part-{number:05}.arrow"
    try:
        with (
            atomic_file(file) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        return VectorPart(file.name, len(vectors), file_sha256(file))
    except OSError as error:
        raise StoreError(
            f"vectors cannot be written to {folder} ({error.strerror or error}); free disk space"
        ) from error


def write_cache_manifest(folder: Path, parts: Sequence[VectorPart], width: int) -> None:
    """Write the manifest; it is written last, so its existence means that all parts are complete."""
    described = {"width": width, "parts": [part._asdict() for part in parts]}
    atomic_write_text(folder / MANIFEST, with_checksum(described))


class EmbeddingCache:
    """Reads the vectors of a folder that has a manifest. A part is compared with its checksum at its first use."""

    def __init__(self, folder: Path) -> None:
        """Open a folder. Raise StoreError if it has no valid manifest, or one of a version without checksums."""
        self._folder = folder
        try:
            described = without_checksum((folder / MANIFEST).read_text(encoding="utf-8"))
            self._files = [folder / part["file"] for part in described["parts"]]
            self._checksums = {folder / part["file"]: part["sha256"] for part in described["parts"]}
            self._ends = np.cumsum([0, *(part["size"] for part in described["parts"])])
            self.width = int(described["width"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"there are no complete vectors in {folder}; delete it to embed again") from error

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copy the vectors of some rows, (N,) -> (N, D) float32. Raise StoreError if a file is damaged or lacks one."""
        unknown = rows[(rows < 0) | (rows >= len(self))]
        if len(unknown):
            raise StoreError(f"{self._folder} has {len(self)} vectors, no row {unknown[0]}; delete it to embed again")
        out = np.empty((len(rows), self.width), np.float32)
        for file, first, last in zip(self._files, self._ends, self._ends[1:], strict=False):
            in_file = np.flatnonzero((rows >= first) & (rows < last))
            if not len(in_file):
                continue
            try:
                self._check(file)
                with pa.memory_map(str(file)) as source:
                    column = pa.ipc.open_file(source).read_all()["vector"].combine_chunks()
                    values = column.flatten().to_numpy().reshape(-1, self.width)
                    out[in_file] = values[rows[in_file] - first]
            except (OSError, pa.ArrowInvalid, ValueError) as error:
                raise StoreError(f"{file} is damaged; delete its folder to embed again") from error
        return out

    def _check(self, file: Path) -> None:
        """Raise ValueError at the first use of a part that is not as it was written."""
        if file in self._checksums and file_sha256(file) != self._checksums[file]:
            raise ValueError("its checksum does not match")
        self._checksums.pop(file, None)
