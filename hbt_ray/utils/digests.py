"""Digests of files that are read back later, and markers of finished work that hold what the work depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import load_json
from hbt_ray.utils.storage import StoragePath, file_sha256

JsonObject = dict[str, Any]  # a JSON object, by key

_KEY = "sha256"  # of the other keys, in a file that `with_checksum` made
_DEPENDS_ON = "depends_on"


def with_checksum(data: Mapping[str, object], **described: object) -> str:
    """Return the JSON text of some data and of their checksum, which is the key `sha256`.

    `described`, such as the step in the file's name, is part of the checksum and not of the text.
    """
    return json.dumps({**data, _KEY: _checksum({**data, **described})}, indent=1, ensure_ascii=False) + "\n"


def without_checksum(text: str | bytes, **described: object) -> JsonObject:
    """Parse what `with_checksum` returned for the same `described`.

    Texts of earlier versions are accepted, whose checksum is of the data only, or which have none.

    Raises:
        ValueError: it is not a JSON object, or its checksum does not match.
    """
    data = load_json(text)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    expected = data.pop(_KEY, None)
    try:
        matches = expected is None or expected in (_checksum({**data, **described}), _checksum(data))
    except RecursionError:  # what can just be parsed cannot be written
        matches = False
    if not matches:
        raise ValueError("its checksum does not match")
    return data


def _checksum(data: Mapping[str, object]) -> str:
    as_read = json.loads(json.dumps(data))  # whose keys are texts
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def file_checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 checksums of some files of a folder, by their names."""
    return {name: file_sha256(folder / name) for name in names}


def damaged_file(folder: Path, checksums: Mapping[str, str]) -> str | None:
    """Return the name of the first file that is missing or has another checksum; None if there is none."""
    for name, checksum in checksums.items():
        try:
            if file_sha256(folder / name) != checksum:
                return name
        except OSError:
            return name
    return None


def unreadable_file(file: str | Path, reason: str) -> ConfigError:
    """Return the error for a file of an input that cannot be read."""
    return ConfigError(f"{file} cannot be read ({reason}); give this user the right to read it, or write another path")


def content_checksums(path: str | Path) -> dict[str, str]:
    """Return the SHA-256 checksums of the files in a folder, by their names in it; of a file, by the name `.`.

    A path of neither, such as the name of a data set on the hub, has none.

    Raises:
        ConfigError: a file cannot be read.
    """
    root = Path(path).expanduser()
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    try:
        return file_checksums(root, (str(file.relative_to(root)) for file in files if file.is_file()))
    except OSError as error:
        raise unreadable_file(error.filename or root, error.strerror or str(error)) from None


def content_digest(path: str | Path) -> str:
    """Return 16 hex digits that change with the content of a file or of any file of a folder, or with its name.

    Of a path that does not exist, such as the name of a model on the hub, the name is hashed. Where a folder is does
    not matter, nor when its files were written.

    Raises:
        ConfigError: a file cannot be read.
    """
    parts = [f"{name} {checksum}" for name, checksum in content_checksums(path).items()] or [str(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def mark_done(file: StoragePath, depends_on: Mapping[str, object]) -> None:
    """Write the marker of finished work. Called last, when all files of the work are written.

    Args:
        file: the marker.
        depends_on: every setting and input that determines the result, by name; of inputs, their digests.
    """
    file.write_text(with_checksum({_DEPENDS_ON: dict(depends_on)}))


def is_done(file: StoragePath, depends_on: Mapping[str, object]) -> bool:
    """Return whether work is finished that depended on the same; False for a marker that is damaged or older."""
    before = done_with(file)
    return before is not None and first_difference(before, depends_on) is None


def done_with(file: StoragePath) -> JsonObject | None:
    """Return what the finished work of a marker depended on; None if there is no marker, or no valid one."""
    try:
        depends_on = without_checksum(file.read_text()).get(_DEPENDS_ON) if file.exists() else None
    except ValueError:
        return None
    return depends_on if isinstance(depends_on, dict) else None


def changed_input(file: StoragePath, inputs: Mapping[str, object], *, has_begun: bool) -> str | None:
    """Compare the inputs of work that has begun with those in a marker, or write the marker.

    Args:
        file: the marker. Work of earlier versions has none, and is not compared.
        inputs: digests of everything that the work reads, by name.
        has_begun: False: a marker that exists belongs to other work.

    Returns:
        The name of the first input that has changed; None if there is none, or nothing to compare with.
    """
    before = done_with(file) if has_begun else None
    changed = None if before is None else first_difference(before, inputs)
    if changed is not None:
        return changed[0]
    mark_done(file, inputs)
    return None


def first_difference(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[str, object, object] | None:
    """Return the first key of which the values differ, and both values; None if there is none."""
    now = json.loads(json.dumps(now))
    keys = dict.fromkeys((*now, *before))
    return next(((key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)), None)
