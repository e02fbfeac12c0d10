"""What one task reads of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CorpusShard:
    """A piece of a corpus that is read alone, by any process that sees its location."""

    format: str  # names the module that reads it
    source: str  # the corpus' name
    location: str  # the file, folder or data set
    language: str | None  # None: every row names its own
    options: dict[str, Any]  # the format's own; "languages" are those wanted where rows name theirs, None is all
