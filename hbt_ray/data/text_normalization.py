"""Text as it is stored, and text as it is compared."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from hbt_ray.data.types import CorpusRow, RejectedRow

# Marks without width that say nothing about the word. The joiners U+200C and U+200D stay: Persian and the scripts
# of India write different words with them. So do format characters that are seen, such as U+06DD, an Arabic mark.
_ZERO_WIDTH = frozenset(
    [
        *(0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xFFF9, 0xFFFC),
    ]
)


class _CleanTable(dict[int, int | None]):
    """What each character becomes, by code point, filled as characters are met."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        # A lone surrogate (Cs) cannot be written as UTF-8.
        drop = code in _ZERO_WIDTH or unicodedata.category(character) in ("Cc", "Cs")
        self[code] = None if drop and not character.isspace() else code
        return self[code]


class _MatchTable(dict[int, int | None]):
    """Likewise: punctuation and white space become a space, what has no width or glyph goes."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace() or category[0] in "PZ":
            self[code] = ord(" ")
        else:
            self[code] = None if category in ("Cc", "Cf", "Cs") else code
        return self[code]


_CLEAN = _CleanTable()
_MATCH = _MatchTable()


def normalize_for_storage(text: str) -> str:
    """Composed (NFC), without control characters and zero-width marks, white space collapsed. Idempotent.

    >>> clean("a\\u200b  caf\\u0065\\u0301\\n")
    'a café'
    """
    text = " ".join(text.split())  # first, since white space other than " " is not printable
    if not text.isprintable():
        text = text.translate(_CLEAN)
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_for_matching(text: str) -> str:
    """What stays the same across editions of a text: no case, width, punctuation or layout. Idempotent.

    NFKC and casefolded; punctuation and white space become single spaces, format characters go. Symbols stay,
    so that "C+" is not "C"; a text of punctuation alone becomes "".

    >>> normalize_for_matching("  “Where” is ﬁle-2?")
    'where is file 2'
    """
    # Case folding may leave characters that NFKC would compose, and composing some that fold again.
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    folded = unicodedata.normalize("NFKC", folded.translate(_MATCH))
    return " ".join(folded.split())


def clean_row(row: CorpusRow) -> CorpusRow | RejectedRow:
    """The row with all its texts cleaned; negatives that are empty or equal the passage are left out."""
    question = None if row.question is None else normalize_for_storage(row.question)
    passage = normalize_for_storage(row.passage)
    if question == "" or not passage:
        reason = "empty question" if question == "" else "empty passage"
        return RejectedRow(row.source, row.location, reason, f"item {row.item_id}"[:200])
    negatives = tuple(
        negative for negative in map(normalize_for_storage, row.negatives) if negative and negative != passage
    )
    answer, start = _clean_answer(row, passage)
    return replace(row, question=question, passage=passage, negatives=negatives, answer=answer, answer_start=start)


def _clean_answer(row: CorpusRow, passage: str) -> tuple[str | None, int]:
    """The cleaned answer, and where it begins in the cleaned passage: -1 where that is not known."""
    answer = normalize_for_storage(row.answer or "") or None
    if answer is None or row.answer_start < 0:
        return answer, -1
    # A full stop in the answer's place keeps the blank before it.
    start = len(normalize_for_storage(row.passage[: row.answer_start] + ".")) - 1
    return answer, start if passage.startswith(answer, start) else -1
