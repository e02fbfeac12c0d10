"""Damage to files: single bits, and any of the ways in which a folder that is read back can be damaged.

`malformed_cases` runs a test on drawn cases. `CASES` counts those that really ran; pytest prints their sum.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbt_ray.errors import HbtError

EXAMPLES = 1000 if os.environ.get("HBT_SLOW_TESTS") else 60  # of each property
CASES: Counter[str] = Counter()  # test -> examples that ran

JUNK = [b"null", b"{}", b"[]", b"-1", b"1.0", b"NaN", b"9" * 400, b"\t", b"\n", b"\xff", b'"', b"[" * 9000]
_VALUES = {text: text for text in ("null", "true", "-1", "0.5", '"x"', "[]", "{}", "[[1]]", "NaN", "1e999")}
_VALUES |= {"a large number": "9" * 400, "a larger number": "9" * 5000}
_VALUES |= {"nested lists": "[" * 3000 + "]" * 3000, "nested objects": '{"a":' * 3000 + "1" + "}" * 3000}
_PLACEHOLDER = "a value that is replaced"


def malformed_cases(examples: int = EXAMPLES, **drawn: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Run a test on drawn cases, and count them."""

    def decorate(test: Any) -> Any:
        @functools.wraps(test)
        def counted(*args: object, **named: object) -> None:
            CASES[test.__name__] += 1
            test(*args, **named)

        checks = list(HealthCheck)
        limited = settings(deadline=None, max_examples=examples, suppress_health_check=checks)(given(**drawn)(counted))
        return pytest.mark.malformed(limited)

    return decorate


def flip_bit(file: Path, at: int | None = None) -> None:
    """Flip the lowest bit of one byte, by default of the one in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    file.write_bytes(content)


@dataclass(frozen=True)
class Damage:
    """One way to damage a folder. Its numbers are taken modulo what there is to choose from."""

    kind: str
    file: int
    at: int
    junk: bytes
    value: str  # key of `_VALUES`

    def apply(self, folder: Path) -> list[str]:
        """Damage the folder; return the names of the files that were damaged."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        file = files[self.file % len(files)]
        content = file.read_bytes()
        at = self.at % (len(content) + 1)
        if self.kind == "swap":
            other = files[(self.file + 1 + self.at % max(len(files) - 1, 1)) % len(files)]
            file.write_bytes(other.read_bytes())
            other.write_bytes(content)
            return [file.name, other.name]
        if self.kind in ("delete", "folder"):
            file.unlink()
        if self.kind == "folder":
            file.mkdir()
        if self.kind in ("empty", "cut"):
            file.write_bytes(content[: at if self.kind == "cut" else 0])
        if self.kind == "flip" and content:
            flip_bit(file, at % len(content))
        if self.kind in ("insert", "overwrite"):
            end = at + len(self.junk) if self.kind == "overwrite" else at
            file.write_bytes(content[:at] + self.junk + content[end:])
        if self.kind in ("value", "unsigned value"):
            file.write_bytes(self._with_another_value(content))
        return [file.name]

    @property
    def keeps_no_checksum(self) -> bool:
        """True if a file was changed as one of an earlier version, which has no checksum."""
        return self.kind == "unsigned value"

    def _with_another_value(self, content: bytes) -> bytes:
        """Replace one value of a JSON file; of other files the beginning."""
        try:
            data = json.loads(content)
        except ValueError:  # no JSON
            return _VALUES[self.value].encode() + content[1:]
        if self.keeps_no_checksum and isinstance(data, dict):
            data.pop("sha256", None)
        places = list(_places(data))
        if not places:
            return _VALUES[self.value].encode()
        holder, key = places[self.at % len(places)]
        holder[key] = _PLACEHOLDER
        return json.dumps(data).replace(json.dumps(_PLACEHOLDER), _VALUES[self.value]).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the object or list, and the key or index, of every value in a JSON value."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


def damages_of(*kinds: str) -> st.SearchStrategy[Damage]:
    """Return a strategy for damages of some kinds."""
    junk = st.binary(min_size=1, max_size=12) | st.sampled_from(JUNK)
    numbers, values = (st.integers(0, 1000), st.integers(0, 100_000)), st.sampled_from(sorted(_VALUES))
    return st.builds(Damage, st.sampled_from(kinds), *numbers, junk, values)


damages = damages_of("cut", "flip", "swap", "delete", "empty", "folder", "insert", "overwrite", "value")
damages_and_earlier = damages | damages_of("unsigned value")  # where files of earlier versions are read as well


@contextlib.contextmanager
def damaged_folder(folder: Path, damage: Damage) -> Iterator[list[str]]:
    """Damage a folder for the block, which gets the names of the damaged files. Copies would take longer."""
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        yield damage.apply(folder)
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and path in contents:
                path.rmdir()
            elif path.is_file() and path not in contents:
                path.unlink()
        for path, content in contents.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def check_damaged(
    folder: Path,
    damage: Damage,
    read: Callable[[Path], Any],
    *,
    may_be: Callable[[Any], bool] = lambda found: False,
) -> None:
    """Damage a folder for a moment: what is read of it is as it was before, or an HbtError names the file.

    Of a file without a checksum only the absence of other errors is checked.

    Args:
        folder: that is whole.
        damage: that it gets.
        read: reads a folder; what it returns is compared.
        may_be: returns whether this is right as well, because the damaged file is not used: it is made again.
    """
    expected = read(folder)
    with damaged_folder(folder, damage) as files:
        try:
            found = read(folder)
        except HbtError as error:
            message = str(error)
            assert "\n" not in message
            assert any(name in message for name in (str(folder), *files)), message
        else:
            assert damage.keeps_no_checksum or found == expected or may_be(found), found
