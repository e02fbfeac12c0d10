"""From a user's name to the name of a file or folder, without two names for one file."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable

# File systems allow 255 bytes, and a character has 4 at most.
_MAX_CHARACTERS = 48
_MAX_WORD_CHARACTERS = 60


def file_name(name: str) -> str:
    """Return a name as that of a file or folder: itself if that is safe, else a safe form of it with a hash.

    Safe names consist of letters, digits, `-` and `_`. A dot is not safe: it would allow "..", and the names of the
    package's files, such as `manifest.json`.

    >>> file_name("squad-dev"), file_name("../squad")
    ('squad-dev', '___squad-446667ee')
    """
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:_MAX_CHARACTERS]
    return safe if safe and safe == name else with_hash(safe or "source", name)


def word_name(name: str) -> str:
    """Return a name as lower-case words joined by hyphens; with a hash where they are too long, or none is left.

    >>> word_name("En-En + mined")
    'en-en-mined'
    """
    words = "-".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())
    if not words:
        return file_name(name)
    return words if len(words) <= _MAX_WORD_CHARACTERS else with_hash(words[:_MAX_WORD_CHARACTERS], name)


def benchmark_slug(name: str) -> str:
    """Return a benchmark's name as it is used in metrics and folders.

    >>> benchmark_slug("miracl/sw")
    'miracl-sw'
    """
    return name.replace("/", "-")


def check_distinct(kind: str, names: Iterable[str], file_name_of: Callable[[str], str] = file_name) -> None:
    """Check that no two names belong to one file, also where a file system takes no notice of case.

    Args:
        kind: what is named, in the plural, for the message.
        names: of different things.
        file_name_of: the function that names their files.

    Raises:
        ValueError: two do. The message names both.
    """
    name_of: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", file_name_of(name)).casefold()
        if key in name_of:
            raise ValueError(
                f"the {kind} {name_of[key]!r} and {name!r} have one file name, {file_name_of(name)!r}; rename one"
            )
        name_of[key] = name


def with_hash(safe: str, name: str) -> str:
    """Return a text with the beginning of a name's SHA-256 hash."""
    return f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
