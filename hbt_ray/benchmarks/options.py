"""What can be chosen when a benchmark is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadOptions:
    with_paragraph: bool = False  # SQuAD: a passage is a sentence followed by its paragraph
    split: str | None = None  # "dev" or "test", where a set has several; None: the one that is usually reported
    languages: frozenset[str] | None = None  # None: all that are found
