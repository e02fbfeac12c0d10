"""Folders in a file system or an object store, through one interface."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.utils.atomic_write import atomic_write_text

REMOTE = ("s3://", "gs://")
SETTINGS = {"endpoint_override", "region", "scheme"}  # of an S3 store


@dataclass(frozen=True, slots=True)
class StoragePath:
    """A folder, or a file in one: an absolute path, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.

    An S3 store other than Amazon's is named behind it: `?endpoint_override=HOST:PORT&scheme=https&region=REGION`.

    A plain value, to be handed to other processes. Credentials come from where the store's own tools look for them.
    Every method raises StorageError, with the place, when the storage fails.
    """

    path: str
    query: str = ""  # of the URI of an object store

    @staticmethod
    def of(place: str | Path) -> StoragePath:
        """Raises ConfigError for a URI that is neither a path nor of a known store."""
        text = str(place)
        if text.startswith(REMOTE):
            path, _, query = text.partition("?")
            if "@" in path:
                raise ConfigError(
                    "credentials do not belong in the storage's URI; "
                    "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the store's own files"
                )
            unknown = sorted(dict(urllib.parse.parse_qsl(query)).keys() - SETTINGS)
            if unknown:
                raise ConfigError(f"storage has no setting {unknown[0]!r}; there are {', '.join(sorted(SETTINGS))}")
            return StoragePath(path.rstrip("/"), query)
        if "://" in text:
            raise ConfigError(f"{text.partition('://')[0]}:// is no storage; write a folder, s3://... or gs://...")
        return StoragePath(str(Path(text).expanduser().absolute()))

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> StoragePath:
        return StoragePath(f"{self.path}/{name}", self.query)

    @property
    def local(self) -> Path | None:
        """The path on this machine; None in an object store."""
        return None if self.path.startswith(REMOTE) else Path(self.path)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """Arrow's file system, and the path in it."""
        if self.local:
            return pafs.LocalFileSystem(), self.path
        with self._told("open"):
            if not self.path.startswith("s3://"):
                return pafs.FileSystem.from_uri(self.path)
            settings = dict(urllib.parse.parse_qsl(self.query))  # region, scheme, endpoint_override
            # A store that is unreachable should be told of in seconds.
            return pafs.S3FileSystem(connect_timeout=10, request_timeout=60, **settings), self.path[len("s3://") :]

    def names(self) -> list[str]:
        """What stands in this folder, sorted; nothing where there is no such folder."""
        filesystem, path = self.arrow()
        with self._told("list"):
            found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def exists(self) -> bool:
        filesystem, path = self.arrow()
        with self._told("look for"):
            return filesystem.get_file_info(path).type != pafs.FileType.NotFound

    def read_text(self) -> str:
        filesystem, path = self.arrow()
        with self._told("read"), filesystem.open_input_stream(path) as stream:
            return stream.read().decode()

    def write_text(self, text: str) -> None:
        """Writes a file that is there whole or not at all."""
        filesystem, path = self.arrow()
        with self._told("write"):
            if self.local:
                self.local.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_text(self.local, text)
                return
            with filesystem.open_output_stream(path) as stream:  # an object appears when it is closed
                stream.write(text.encode())

    def upload(self, folder: Path, *, last: str) -> None:
        """Copies a folder's files here, `last` after all others."""
        filesystem, path = self.arrow()
        files = sorted((file for file in folder.iterdir()), key=lambda file: (file.name == last, file.name))
        with self._told("write"):
            filesystem.create_dir(path)
            for file in files:
                with file.open("rb") as source, filesystem.open_output_stream(f"{path}/{file.name}") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

    def download(self, folder: Path) -> None:
        """Copies the files of this folder into one of this machine."""
        filesystem, path = self.arrow()
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.names():
            file = f"{path}/{name}"
            with self._told("read"), filesystem.open_input_stream(file) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)

    def delete(self) -> None:
        """Deletes a folder or a file, if it is there."""
        filesystem, path = self.arrow()
        with self._told("delete"), contextlib.suppress(FileNotFoundError):
            kind = filesystem.get_file_info(path).type
            if kind == pafs.FileType.Directory:
                filesystem.delete_dir(path)
            elif kind == pafs.FileType.File:
                filesystem.delete_file(path)

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # Arrow's own errors are one or the other
            reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:300]
            raise StorageError(f"cannot {doing} {self} ({reason})") from error


def file_sha256(path: str | Path) -> str:
    """The checksum of a file of this machine, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
