"""Detect training texts that occur in evaluation sets.

A text matches an evaluation question or passage

- if the two are equal as a whole, both normalized by `normalize_for_matching` and folded by `fold_for_comparison`; or
- if the Jaccard similarity of their sets of 5-character shingles is at least a threshold; or
- if one contains nearly all of the other or of a long stretch of it, see `containment.py`.

Texts of fewer than 20 normalized characters match only if they are equal: "in 1985" and "in 1986" would be similar. A
long passage that contains a short evaluation sentence such as "Yes." does not match it.

Near-duplicates are found with MinHash in bands (see `minhash.py`) and verified by the exact similarity. The bands are
one sorted array, not datasketch's `MinHashLSH`: its Python sets take 11 KB per text in every worker, while the
processes of a machine share an array.

Most texts need no signature. A text that is similar at threshold t to an evaluation text shares at least the fraction
t of its shingles with it. So a text whose fraction of shingles that no evaluation text has is above 1 - t is skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hbt_ray.data.containment import ContainmentIndex
from hbt_ray.data.minhash import (
    NUM_PERMUTATIONS,
    choose_band_rows,
    hash_bands,
    hash_shingles,
    jaccard_similarity,
    minhash_signatures,
    shingle_set,
    sorted_distinct,
)
from hbt_ray.data.text_normalization import fold_for_comparison, normalize_for_matching
from hbt_ray.errors import ConfigError

MIN_NEAR_DUPLICATE_CHARS = 20  # normalized
_TEXTS_PER_BATCH = 256  # whose shingles are hashed at once
_SLOTS_PER_SHINGLE = 16  # of the filter; so few shingles that no evaluation text has use the slot of one that it has


@dataclass(frozen=True, slots=True)
class Match:
    """How a text matches an evaluation text."""

    match_type: Literal["equal", "near-duplicate", "contained"]
    text: str  # the evaluation text
    similarity: float  # Jaccard similarity of the shingles; of "contained" the fraction of the shorter text


class DecontaminationIndex:
    """The questions and passages of evaluation sets, in arrays that are small and fast to pickle.

    Legend: N distinct texts, K bands of all texts together, S shingles.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        """Index texts; those whose normalized form is empty are left out.

        Args:
            texts: of the evaluation sets.
            threshold: Jaccard similarity of near-duplicates; at 1 only equal texts match.

        Raises:
            ConfigError: the threshold is not above 0 and at most 1.
        """
        if not 0 < threshold <= 1:
            raise ConfigError(f"the near-duplicate threshold is {threshold}; choose above 0 and up to 1, such as 0.8")
        self.threshold = threshold
        distinct: dict[str, str] = {}
        for text in texts:
            distinct.setdefault(_normalize(text), text)
        distinct.pop("", None)
        encoded = [text.encode("utf-8", "surrogatepass") for text in distinct.values()]
        self._blob = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])  # (N + 1,) bytes
        keys = np.array([_hash_text(normal) for normal in distinct], np.uint64)
        self._key_texts = np.argsort(keys, kind="stable")  # (N,) number of the text of each sorted key
        self._keys = keys[self._key_texts]  # (N,) sorted
        normals = list(distinct) if threshold < 1 else []
        self._index_near_duplicates(normals)
        self._containment = ContainmentIndex(normals, threshold)

    def _index_near_duplicates(self, normals: list[str]) -> None:
        rows = choose_band_rows(self.threshold)
        numbers = [n for n, normal in enumerate(normals) if len(normal) >= MIN_NEAR_DUPLICATE_CHARS]
        self._rows = rows
        self._bands_per_text = NUM_PERMUTATIONS // rows
        bands = np.zeros((len(numbers), self._bands_per_text), np.uint64)
        known = [np.empty(0, np.uint64)]
        for start in range(0, len(numbers), _TEXTS_PER_BATCH):
            hashes, offsets = hash_shingles([normals[n] for n in numbers[start : start + _TEXTS_PER_BATCH]])
            bands[start : start + _TEXTS_PER_BATCH] = hash_bands(minhash_signatures(hashes, offsets), rows)
            known.append(sorted_distinct(hashes))
        order = np.argsort(bands, axis=None, kind="stable")
        self._bands = bands.ravel()[order]  # (K,) sorted
        self._band_texts = np.repeat(np.array(numbers, np.int32), self._bands_per_text)[order]  # (K,)
        self._fill_filter(sorted_distinct(np.concatenate(known)))

    def _fill_filter(self, known: np.ndarray) -> None:
        """Build a Bloom filter of one hash function, (2 ** slot_bits,) bits, of the evaluation texts' shingles."""
        self._slot_bits = max((len(known) * _SLOTS_PER_SHINGLE).bit_length(), 3)
        taken = np.zeros(1 << self._slot_bits, bool)
        taken[self._slots(known)] = True
        self._taken = np.packbits(taken, bitorder="little")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, text: str) -> Match | None:
        """Find the evaluation text that equals a text, or else the most similar one at or above the threshold."""
        return self.find_all([normalize_for_matching(text)])[0]

    def find_all(self, normals: Sequence[str]) -> list[Match | None]:
        """Find the match of each text, as `find`. The texts must be normalized by `normalize_for_matching`."""
        normals = list(map(fold_for_comparison, normals))
        matches: list[Match | None] = [None] * len(normals)
        keys = np.fromiter(map(_hash_text, normals), np.uint64, len(normals))
        for index in np.flatnonzero(_is_in_sorted(keys, self._keys)).tolist():
            if (equal := self._find_equal(normals[index])) is not None:
                matches[index] = Match("equal", equal, 1.0)
        for index, candidates in self._near_candidates(normals):
            if matches[index] is None:
                matches[index] = self._most_similar(normals[index], candidates)
        self._find_contained(normals, matches)
        return matches

    def _find_contained(self, normals: Sequence[str], matches: list[Match | None]) -> None:
        """Add the first match of each text that has none by an evaluation text of which it has a long part."""
        for start in range(0, len(normals), _TEXTS_PER_BATCH):
            for index, number in self._containment.candidates(normals[start : start + _TEXTS_PER_BATCH]):
                if matches[start + index] is None:
                    text = self._text(number)
                    fraction = self._containment.contained_fraction(normals[start + index], _normalize(text))
                    if fraction:
                        matches[start + index] = Match("contained", text, fraction)

    def _near_candidates(self, normals: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
        """Yield the indices of texts that may have near-duplicates, each with the numbers of the candidates."""
        if self.threshold == 1 or not len(self._bands):
            return
        indices = [index for index, normal in enumerate(normals) if len(normal) >= MIN_NEAR_DUPLICATE_CHARS]
        hashes, offsets = hash_shingles([normals[index] for index in indices])
        passed = self._passes_filter(hashes, offsets)
        counts = np.diff(offsets)
        passed_hashes = hashes[np.repeat(passed, counts)]
        passed_offsets = np.concatenate([[0], np.cumsum(counts[passed])])
        shared = self._texts_sharing_a_band(passed_hashes, passed_offsets)
        for number, candidates in zip(np.flatnonzero(passed), shared, strict=True):
            if candidates:
                yield indices[number], candidates

    def _passes_filter(self, hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return which texts have few enough unknown shingles, which no evaluation text has: (texts,) bool.

        The test must not fail for a near-duplicate, so the number of shingles is not underestimated and the number of
        unknown ones is not overestimated.
        """
        counts = np.diff(offsets)  # repeated shingles count each time: an upper bound
        slots = self._slots(hashes)
        unknown = np.flatnonzero(~(self._taken[slots >> 3] >> (slots & 7).astype(np.uint8) & 1).view(bool))
        texts = np.repeat(np.arange(len(counts)), counts)[unknown]
        # Distinct slots: a lower bound of the distinct unknown shingles.
        distinct = sorted_distinct((texts << self._slot_bits) | slots[unknown])
        unknown_counts = np.bincount(distinct >> self._slot_bits, minlength=len(counts))
        return unknown_counts <= (1 - self.threshold) * counts + 0.5  # margin for rounding

    def _slots(self, hashes: np.ndarray) -> np.ndarray:
        """Return the filter's slot of each shingle: (S,) int64 below 2 ** slot_bits."""
        return (hashes >> np.uint64(64 - self._slot_bits)).astype(np.int64)

    def _most_similar(self, normal: str, candidates: Sequence[int]) -> Match | None:
        shingles = shingle_set(normal)
        best: Match | None = None
        for number in candidates:
            candidate = self._text(number)
            similarity = jaccard_similarity(shingles, shingle_set(_normalize(candidate)))
            if similarity >= self.threshold and (best is None or similarity > best.similarity):
                best = Match("near-duplicate", candidate, similarity)
        return best

    def _find_equal(self, normal: str) -> str | None:
        if not normal:
            return None
        key = np.uint64(_hash_text(normal))
        begin, end = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for number in self._key_texts[begin:end]:
            text = self._text(number)
            if _normalize(text) == normal:
                return text
        return None

    def _texts_sharing_a_band(self, hashes: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
        """Return the numbers of the evaluation texts that share a band with each set of shingles, ascending."""
        sharing: list[list[int]] = [[] for _ in offsets[1:]]
        bands = hash_bands(minhash_signatures(hashes, offsets), self._rows).ravel()
        sets = np.repeat(np.arange(len(sharing)), self._bands_per_text)
        shared = _is_in_sorted(bands, self._bands)
        begins = np.searchsorted(self._bands, bands[shared], "left")
        ends = np.searchsorted(self._bands, bands[shared], "right")
        for number, begin, end in zip(sets[shared], begins, ends, strict=True):
            sharing[number] += self._band_texts[begin:end].tolist()
        return [sorted(set(texts)) for texts in sharing]

    def _text(self, number: int) -> str:
        return self._blob[self._ends[number] : self._ends[number + 1]].tobytes().decode("utf-8", "surrogatepass")


def _normalize(text: str) -> str:
    return fold_for_comparison(normalize_for_matching(text))


def is_near_duplicate(normal: str, other: str, threshold: float) -> bool:
    """Return whether two texts normalized by `normalize_for_matching` are equal or at least `threshold` similar."""
    if normal == other:
        return True
    if threshold == 1 or min(len(normal), len(other)) < MIN_NEAR_DUPLICATE_CHARS:
        return False
    return jaccard_similarity(shingle_set(normal), shingle_set(other)) >= threshold


def _hash_text(normal: str) -> int:
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8"), digest_size=8).digest(), "little")


def _is_in_sorted(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which values a sorted array contains: (N,) bool."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
