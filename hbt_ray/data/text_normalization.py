"""Normalize text: for the store, and more strongly to find texts that match."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from hbt_ray.data.types import CorpusRow, RejectedRow

# Characters without width that do not change a word. Not among them: the joiners U+200C and U+200D, which distinguish
# words in Persian and in scripts of India, and visible format characters such as U+06DD, an Arabic mark.
_ZERO_WIDTH = frozenset(
    [
        *(0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xFFF9, 0xFFFC),
    ]
)


class _StorageTable(dict[int, int | None]):
    """Code point -> its replacement for `str.translate`, None to delete it; filled as characters occur."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        # UTF-8 cannot encode a lone surrogate (Cs).
        drop = code in _ZERO_WIDTH or unicodedata.category(character) in ("Cc", "Cs")
        self[code] = None if drop and not character.isspace() else code
        return self[code]


class _MatchingTable(dict[int, int | None]):
    """Like `_StorageTable`: punctuation and white space become spaces, characters without a glyph are deleted."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace() or category[0] in "PZ":
            self[code] = ord(" ")
        else:
            self[code] = None if category in ("Cc", "Cf", "Cs") else code
        return self[code]


class _FoldingTable(dict[int, int | None]):
    """Like `_StorageTable`: diacritics of letters are deleted, digits of all scripts become ASCII."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        # Accents, and the points of Hebrew and Arabic; not the vowels and voicing marks of other scripts.
        combining = unicodedata.combining(character)
        digit = unicodedata.decimal(character, None)
        if combining >= 200 or 10 <= combining <= 35:
            self[code] = None
        else:
            self[code] = code if digit is None else ord("0") + digit
        return self[code]


_FOLDING_TABLE = _FoldingTable({ord("ı"): ord("i"), ord("ł"): ord("l"), ord("ø"): ord("o"), ord("đ"): ord("d")})
_UMLAUTS = (("ae", "a"), ("oe", "o"), ("ue", "u"))
_STORAGE_TABLE = _StorageTable()
_MATCHING_TABLE = _MatchingTable()


def normalize_for_storage(text: str) -> str:
    r"""Compose a text (NFC), delete control and zero-width characters, and collapse white space. Idempotent.

    >>> normalize_for_storage("a\u200b  caf\u0065\u0301\n")
    'a café'
    """
    text = " ".join(text.split())  # first, because white space other than " " is not printable
    if not text.isprintable():
        text = text.translate(_STORAGE_TABLE)
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_for_matching(text: str) -> str:
    """Return what editions of a text have in common: no case, width, punctuation or layout. Idempotent.

    The text is composed (NFKC) and case-folded. Punctuation and white space become single spaces; format characters
    are deleted. Symbols are kept, so that "C+" does not match "C". A text of punctuation only becomes "".

    >>> normalize_for_matching("  “Where” is ﬁle-2?")
    'where is file 2'
    """
    # Twice: case folding can give characters that NFKC composes, and a composed one may fold again.
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    folded = unicodedata.normalize("NFKC", folded.translate(_MATCHING_TABLE))
    return " ".join(folded.split())


def fold_for_comparison(normal: str) -> str:
    """Return what spellings of a normalized text have in common: no diacritics, digits in ASCII, "ae" as "a".

    Args:
        normal: a text normalized by `normalize_for_matching`.

    >>> fold_for_comparison("köln koeln koln ٢"), fold_for_comparison("ガ")
    ('koln koln koln 2', 'ガ')
    """
    folded = normal
    if not normal.isascii():
        decomposed = unicodedata.normalize("NFD", normal).translate(_FOLDING_TABLE)
        folded = unicodedata.normalize("NFC", decomposed)
    for spelling, letter in _UMLAUTS:
        folded = folded.replace(spelling, letter)
    return folded or normal


def clean_row(row: CorpusRow) -> CorpusRow | RejectedRow:
    """Normalize all texts of a row for storage. Negatives that are empty or equal the passage are dropped."""
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
    """Return the normalized answer and its offset in the normalized passage; -1 if that is unknown."""
    answer = normalize_for_storage(row.answer or "") or None
    if answer is None or row.answer_start < 0:
        return answer, -1
    # A full stop instead of the answer keeps the space before it.
    start = len(normalize_for_storage(row.passage[: row.answer_start] + ".")) - 1
    return answer, start if passage.startswith(answer, start) else -1
