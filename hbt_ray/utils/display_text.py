"""Texts as they are shown: those of corpora on one line, without control characters; sentences broken between words."""

from __future__ import annotations

import re
import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TextIO

# Control characters, among them those of terminals; characters that turn the direction of what follows them; halves of
# surrogate pairs, which cannot be encoded. Marks that have a direction but turn nothing are kept.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]")
_REPLACEMENT = "\ufffd"
_MAX_BACK = 24  # characters that are given up to end a text at a blank


def printable(text: str) -> str:
    r"""Return a text on one line, with U+FFFD for control characters.

    >>> printable("one\n two\x1b[31m")
    'one two�[31m'
    """
    return _CONTROLS.sub(_REPLACEMENT, " ".join(text.split()))


def shorten(text: str, limit: int) -> str:
    """Return a printable text of at most `limit` characters, cut at a blank if there is one near, with an ellipsis.

    >>> shorten("to be or not to be", 10), shorten("to be", 10)
    ('to be or…', 'to be')
    """
    shown = printable(text[: 4 * limit])
    if len(shown) <= limit and len(text) <= 4 * limit:
        return shown
    cut = shown[: limit - 1]
    blank = cut.rfind(" ", max(limit - _MAX_BACK, 1))
    if blank > 0 and shown[limit - 1 : limit] != " ":
        cut = cut[:blank]
    while cut and len(cut) < len(shown) and unicodedata.category(shown[len(cut)])[0] == "M":
        cut = cut[:-1]  # a mark is not separated from its letter
    return cut.rstrip() + "…"


def name_some(names: Sequence[str], limit: int) -> str:
    """List the first names, and count the others.

    >>> name_some(["a", "b", "c", "d"], 2), name_some(["a", "b"], 2)
    ('a, b and 2 more', 'a, b')
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def wrap_for(stream: TextIO, text: str) -> str:
    """Return a text whose long lines are broken between words if a stream is a terminal; else the text as it is.

    A command in backquotes stays on one line, so that it can be copied.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_wrap_line(line, width) if len(line) > width else line for line in text.split("\n"))


def _wrap_line(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    kept = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), line)
    lines = textwrap.wrap(kept, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")
