"""What can be chosen when a benchmark is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hbt_ray.errors import CorpusError


@dataclass(frozen=True, slots=True)
class ReadOptions:
    with_paragraph: bool = False  # SQuAD: a passage is a sentence followed by its paragraph
    split: str | None = None  # "dev" or "test", where a set has several; None: the one that is usually reported
    languages: frozenset[str] | None = None  # None: all that are found

    def check_languages(self, folder: str, found: Iterable[str]) -> None:
        """Raises CorpusError when a language asked for is not among those found in the folder."""
        there = sorted(set(found))
        missing = sorted((self.languages or frozenset()).difference(there))
        if missing:
            raise CorpusError(
                f"{folder!r} holds no {', '.join(missing)}; languages there: {', '.join(there) or 'none'}"
            )
