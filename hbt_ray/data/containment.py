"""Find texts that contain a stretch of an evaluation text, or that are contained in one.

Two texts match if nearly all of the shorter one occurs in the other, or nearly all of a stretch of LONG_STRETCH
shingles of it. A shingle is 5 characters, or 2 of a script that writes a word in one or two characters (Han, Kana,
Hangul).

Candidates are found by an inverted index of fingerprints: hashes of 12 characters, or of 3 of such a script, chosen by
winnowing (Schleimer, Wilkerson, Aiken 2003): of each WINNOW consecutive ones the smallest. So texts that have 14
characters in a row in common (5 of such a script) have a fingerprint in common.

Legend: N evaluation texts, F fingerprints of all of them, C characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MIN_LENGTH = 20  # of the shorter text, see `Shingles.length`
MIN_CONTAINED_LENGTH = 40  # of the shorter text, if the other is more than MAX_RATIO times as long
MAX_RATIO = 2.5
LONG_STRETCH = 120  # shingles
WINNOW = 3
MIN_SHARED_FINGERPRINTS = 0.25  # fraction of those of the shorter text or of a long stretch
MAX_TEXTS_PER_FINGERPRINT = 1000  # others are not in the index
_TEXTS_PER_BATCH = 256  # whose fingerprints are computed at once
_DENSE_LENGTH = 2.5  # of a character of a dense script, in letters
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2 ** 64 divided by the golden ratio
_DENSE = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


class ContainmentIndex:
    """An inverted index of the fingerprints of N texts, in arrays that are small and fast to pickle."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        """Index texts.

        Args:
            texts: normalized and folded.
            threshold: Jaccard similarity of near-duplicates. For sets of one size it is the fraction
                2 t / (1 + t) of either, which the shorter text must have in common with the other. For dense scripts
                the fraction is t: one character is as much as a word of letters.
        """
        self.threshold = threshold
        keys, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for start in range(0, len(texts), _TEXTS_PER_BATCH):
            of_batch, owners = _fingerprints(texts[start : start + _TEXTS_PER_BATCH])
            keys.append(of_batch)
            numbers.append((owners + start).astype(np.int32))
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        all_keys, all_numbers = all_keys[order], np.concatenate(numbers)[order]
        # Words that many texts use identify none, and would make each training text a candidate for all of them.
        uses = np.unique(all_keys, return_counts=True)[1]
        is_rare = np.repeat(uses <= MAX_TEXTS_PER_FINGERPRINT, uses)
        self._keys, self._numbers = all_keys[is_rare], all_numbers[is_rare]  # (F,) sorted by key
        self._counts = np.bincount(self._numbers, minlength=len(texts)).astype(np.int32)  # (N,)

    def candidates(self, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield (index of a text, number of an evaluation text) of pairs with enough fingerprints in common."""
        if not len(self._keys) or not texts:
            return
        keys, owners = _fingerprints(texts)
        counts = np.bincount(owners, minlength=len(texts))
        # Sorted, so that neighbouring searches read the same memory; the end is searched for known keys only.
        order = np.argsort(keys)
        keys = keys[order]
        begins = np.searchsorted(self._keys, keys, "left")
        known = self._keys[np.minimum(begins, len(self._keys) - 1)] == keys
        keys, begins, owners = keys[known], begins[known], owners[order][known]
        lengths = np.searchsorted(self._keys, keys, "right") - begins
        hits = np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        pairs, shared = np.unique(
            np.repeat(owners, lengths) * len(self._counts) + self._numbers[hits], return_counts=True
        )
        indices, numbers = np.divmod(pairs, len(self._counts))
        of_shorter = np.minimum(np.minimum(counts[indices], self._counts[numbers]), LONG_STRETCH // 2)
        enough = shared >= MIN_SHARED_FINGERPRINTS * of_shorter
        yield from zip(indices[enough].tolist(), numbers[enough].tolist(), strict=True)

    def contained_fraction(self, one: str, other: str) -> float:
        """Return the fraction of the shorter text that occurs in the other; 0 if it is too small for a match."""
        shorter, longer = sorted((Shingles.of(one), Shingles.of(other)), key=lambda text: text.length)
        is_similar_in_length = longer.length <= MAX_RATIO * shorter.length
        if shorter.length < (MIN_LENGTH if is_similar_in_length else MIN_CONTAINED_LENGTH):
            return 0.0
        is_shared = np.isin(shorter.hashes, longer.hashes)
        stretch = min(len(is_shared), LONG_STRETCH)
        sums = np.concatenate([[0], np.cumsum(is_shared)])
        fraction = float((sums[stretch:] - sums[:-stretch]).max() / stretch)
        required = self.threshold**1.5 if shorter.is_dense else 2 * self.threshold / (1 + self.threshold)
        return fraction if fraction >= required else 0.0


@dataclass(frozen=True, slots=True)
class Shingles:
    """The shingles of a text."""

    hashes: np.ndarray  # uint64, in their order
    length: float  # in characters; one of a dense script counts as several
    is_dense: bool  # most characters are of a dense script

    @staticmethod
    def of(text: str) -> Shingles:
        """Hash the shingles of a text."""
        codes, dense = _codes([text])
        hashes, is_whole = _hash_grams(codes, dense, np.full(len(codes), len(codes)), 5, 2)
        num_dense = int(dense.sum())
        length = len(codes) + (_DENSE_LENGTH - 1) * num_dense
        return Shingles(hashes[is_whole], length, 2 * num_dense > len(codes))


def _codes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of concatenated texts and which are of a dense script, (C,) uint64 and (C,) bool."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    dense = np.zeros(len(codes), bool)
    if codes.max(initial=0) >= _DENSE[0][0]:
        for first, last in _DENSE:
            dense |= (codes >= first) & (codes <= last)
    return codes, dense


def _hash_grams(
    codes: np.ndarray, dense: np.ndarray, text_ends: np.ndarray, size: int, dense_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hash the characters from each position on: `size`, or `dense_size` where the first is of a dense script.

    Args:
        codes: (C,) code points.
        dense: (C,) bool.
        text_ends: (C,) position after the last character of each character's text.
        size: number of characters.
        dense_size: at most `size`.

    Returns:
        (C,) uint64 hashes, and (C,) bool, which of them do not extend beyond their text.
    """
    padded = np.concatenate([codes, np.zeros(size, np.uint64)])
    hashes = np.zeros(len(codes), np.uint64)
    short = hashes
    for offset in range(size):
        hashes = hashes * _MULTIPLIER + padded[offset : offset + len(codes)]
        if offset + 1 == dense_size:
            short = hashes
    hashes = np.where(dense, short, hashes)
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MULTIPLIER
    hashes ^= hashes >> np.uint64(29)
    sizes = np.where(dense, dense_size, size)
    return hashes, np.arange(len(codes)) + sizes <= text_ends


def _fingerprints(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct fingerprints of texts and the index of each one's text, (F,) each."""
    codes, dense = _codes(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    owners = np.repeat(np.arange(len(texts)), lengths)
    hashes, is_whole = _hash_grams(codes, dense, np.cumsum(lengths)[owners], 12, 3)
    hashes, owners = hashes[is_whole], owners[is_whole]
    # Of each window of consecutive hashes of one text the smallest; all where a text has fewer.
    windows = max(len(hashes) - WINNOW + 1, 0)
    is_one_text = owners[:windows] == owners[WINNOW - 1 :]
    smallest = np.minimum.reduce([hashes[offset : offset + windows] for offset in range(WINNOW)])
    chosen = np.bincount(owners, minlength=len(texts))[owners] < WINNOW
    for offset in range(WINNOW):
        chosen[offset : offset + windows] |= is_one_text & (hashes[offset : offset + windows] == smallest)
    owners, hashes = owners[chosen], hashes[chosen]
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (owners[1:] != owners[:-1]) | (hashes[1:] != hashes[:-1])
    return hashes[is_new], owners[is_new]
