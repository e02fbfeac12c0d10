"""Paths in a file system or an object store, through one interface.

Based on pyarrow.fs, which reads S3 and Google Cloud Storage itself and which Ray Train uses for the same folders.
universal_pathlib would need s3fs and gcsfs as well, and its paths accept credentials in the URI.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from hbt_ray.errors import ConfigError, StorageError
from hbt_ray.utils.atomic_write import atomic_write_text

_REMOTE = ("s3://", "gs://")
_SETTINGS = {"endpoint_override", "region", "scheme"}  # of an S3 store


@functools.cache
def _s3_client(query: str) -> pafs.S3FileSystem:
    """Return the client of the S3 store with these settings; it keeps its connections, and renews its credentials."""
    settings = dict(urllib.parse.parse_qsl(query))  # region, scheme, endpoint_override
    # An unreachable store should be reported within seconds.
    return pafs.S3FileSystem(connect_timeout=10, request_timeout=60, **settings)


@dataclass(frozen=True, slots=True)
class StoragePath:
    """A folder, or a file in one: an absolute path, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.

    An S3 store other than Amazon's is named by a query: `?endpoint_override=HOST:PORT&scheme=https&region=REGION`.

    A path pickles as a plain value. Credentials are read from the environment or the files of the store's client.
    Every method raises StorageError with the path if the storage fails.
    """

    path: str
    query: str = ""  # of the URI of an object store

    @staticmethod
    def of(location: str | Path) -> StoragePath:
        """Parse a path or URI. Raise ConfigError if the store or a setting is unknown, or if it has credentials."""
        text = str(location)
        if text.startswith(_REMOTE):
            path, _, query = text.partition("?")
            if "@" in path:
                raise ConfigError(
                    "credentials do not belong in the storage's URI; "
                    "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the store's own files"
                )
            unknown = sorted(dict(urllib.parse.parse_qsl(query)).keys() - _SETTINGS)
            if unknown:
                raise ConfigError(f"storage has no setting {unknown[0]!r}; there are {', '.join(sorted(_SETTINGS))}")
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
        """The path in the local file system; None in an object store."""
        return None if self.path.startswith(_REMOTE) else Path(self.path)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """Return Arrow's file system, and the path in it."""
        if self.local:
            return pafs.LocalFileSystem(), self.path
        with self._storage_errors("open"):
            if not self.path.startswith("s3://"):
                return pafs.FileSystem.from_uri(self.path)
            return _s3_client(self.query), self.path[len("s3://") :]

    def names(self) -> list[str]:
        """Return the names of the files and folders in this folder, sorted; none if it does not exist."""
        filesystem, path = self.arrow()
        with self._storage_errors("list"):
            found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        filesystem, path = self.arrow()
        with self._storage_errors("look for"):
            return filesystem.get_file_info(path).type != pafs.FileType.NotFound

    def is_same(self, other: StoragePath) -> bool:
        """Return whether both are one file or folder, which in a file system may have several paths."""
        if self.local and other.local:
            return self.local.samefile(other.local)
        return self == other

    def read_text(self) -> str:
        """Read a UTF-8 file. Raises UnicodeDecodeError for another one."""
        filesystem, path = self.arrow()
        with self._storage_errors("read"), filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content.decode()

    def write_text(self, text: str) -> None:
        """Write a UTF-8 file; it exists complete or not at all."""
        filesystem, path = self.arrow()
        with self._storage_errors("write"):
            if self.local:
                self.local.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_text(self.local, text)
                return
            with filesystem.open_output_stream(path) as stream:  # an object exists once its stream is closed
                stream.write(text.encode())

    def upload(self, folder: Path, *, last: str) -> None:
        """Copy the files of a local folder into this folder, the file named `last` after all others."""
        filesystem, path = self.arrow()
        files = sorted((file for file in folder.iterdir()), key=lambda file: (file.name == last, file.name))
        with self._storage_errors("write"):
            filesystem.create_dir(path)
            for file in files:
                with file.open("rb") as source, filesystem.open_output_stream(f"{path}/{file.name}") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

    def download(self, folder: Path) -> None:
        """Copy the files of this folder into a local one."""
        filesystem, path = self.arrow()
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.names():
            file = f"{path}/{name}"
            with (
                self._storage_errors("read"),
                filesystem.open_input_stream(file) as source,
                (folder / name).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)

    def delete(self) -> None:
        """Delete a folder or a file, if it exists."""
        filesystem, path = self.arrow()
        with self._storage_errors("delete"), contextlib.suppress(FileNotFoundError):
            file_type = filesystem.get_file_info(path).type
            if file_type == pafs.FileType.Directory:
                filesystem.delete_dir(path)
            elif file_type == pafs.FileType.File:
                filesystem.delete_file(path)

    def move(self, target: StoragePath) -> None:
        """Move a file or folder, if it exists, to a path of the same storage.

        A local one is renamed. In an object store it is copied, then deleted; an interrupted move may be repeated.
        """
        if not self.exists():
            return
        filesystem, path = self.arrow()
        with self._storage_errors("move"):
            if self.local and target.local:
                target.local.parent.mkdir(parents=True, exist_ok=True)
                self.local.rename(target.local)
                return
            pafs.copy_files(path, target.arrow()[1], source_filesystem=filesystem, destination_filesystem=filesystem)
        self.delete()

    @contextlib.contextmanager
    def _storage_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # Arrow's errors are of these classes
            reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:300]
            raise StorageError(f"cannot {action} {self} ({reason})") from error


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 checksum of a local file, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
