"""Which training texts occur in evaluation sets.

The rule: a text occurs when the *whole* of it equals the whole of an evaluation question or passage, both
normalised by `normalize_for_matching`; or when the Jaccard similarity of their sets of 5-character shingles reaches a
threshold. A long passage that merely contains a short evaluation sentence such as "Yes." does not match it.
Texts of fewer than 20 normalised characters match by equality alone: there "in 1985" and "in 1986" are alike.

Near-duplicates are sought with MinHash in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets,
section 3.4) and verified by the exact similarity. The bands stand in one sorted array rather than in datasketch's
`MinHashLSH`, whose Python sets take some 11 KB per text in every worker; arrays are shared within a machine.

Most texts need no sketch. One that has no equal and reaches the threshold t with some evaluation text shares at least
t of its shingles with that text, so with all of them: a text with more than 1 - t that none has is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from datasketch import MinHash

from hbt_ray.data.text_normalization import normalize_for_matching
from hbt_ray.errors import ConfigError

SHINGLE_CHARS = 5
MIN_NEAR_DUPLICATE_CHARS = 20  # normalised
_NUM_PERMUTATIONS = 128
_MAX_MISS_PROBABILITY = 1e-3  # of an evaluation text exactly at the threshold
_PERMUTATIONS = MinHash(_NUM_PERMUTATIONS, seed=1).permutations  # (2, 128) uint32: factors and summands
_TEXTS_TOGETHER = 256  # whose shingles are hashed in one go
_SLOTS_PER_SHINGLE = 16  # of the filter: so few that are not known meet the slot of one that is
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2 ** 64 divided by the golden ratio


@dataclass(frozen=True, slots=True)
class Match:
    kind: Literal["equal", "near-duplicate"]
    text: str  # the evaluation text that was matched
    similarity: float  # Jaccard similarity of the shingles


class DecontaminationIndex:
    """The questions and passages of evaluation sets, in arrays that pickle small and fast.

    Legend: N distinct texts, K bands in all that have one, S shingles of a text.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        """Texts that normalise to nothing are left out; `threshold` 1 looks for equal texts alone.

        Raises:
            ConfigError: the threshold is not above 0 and at most 1.
        """
        if not 0 < threshold <= 1:
            raise ConfigError(f"the near-duplicate threshold is {threshold}; choose above 0 and up to 1, such as 0.8")
        self.threshold = threshold
        distinct: dict[str, str] = {}
        for text in texts:
            distinct.setdefault(normalize_for_matching(text), text)
        distinct.pop("", None)
        encoded = [text.encode("utf-8", "surrogatepass") for text in distinct.values()]
        self._blob = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])  # (N + 1,) bytes
        keys = np.array([_key(normal) for normal in distinct], np.uint64)
        self._key_texts = np.argsort(keys, kind="stable")  # (N,) text of each sorted key
        self._keys = keys[self._key_texts]  # (N,) sorted
        self._index_near_duplicates(list(distinct) if threshold < 1 else [])

    def _index_near_duplicates(self, normals: list[str]) -> None:
        rows = _rows_per_band(self.threshold)
        numbers = [n for n, normal in enumerate(normals) if len(normal) >= MIN_NEAR_DUPLICATE_CHARS]
        self._rows = rows
        self._bands_per_text = _NUM_PERMUTATIONS // rows
        bands = np.zeros((len(numbers), self._bands_per_text), np.uint64)
        known = [np.empty(0, np.uint64)]
        for start in range(0, len(numbers), _TEXTS_TOGETHER):
            hashes, starts = _shingle_hashes([normals[n] for n in numbers[start : start + _TEXTS_TOGETHER]])
            bands[start : start + _TEXTS_TOGETHER] = _bands(_signatures(hashes, starts), rows)
            known.append(np.unique(hashes))
        order = np.argsort(bands, axis=None, kind="stable")
        self._bands = bands.ravel()[order]  # (K,) sorted
        self._band_texts = np.repeat(np.array(numbers, np.int32), self._bands_per_text)[order]  # (K,)
        self._filter_shingles(np.unique(np.concatenate(known)))

    def _filter_shingles(self, known: np.ndarray) -> None:
        self._slot_bits = max((len(known) * _SLOTS_PER_SHINGLE).bit_length(), 3)
        taken = np.zeros(1 << self._slot_bits, bool)
        taken[self._slots(known)] = True
        self._taken = np.packbits(taken, bitorder="little")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, text: str) -> Match | None:
        """The evaluation text that equals this one, else the most similar one at or above the threshold."""
        return self.find_all([normalize_for_matching(text)])[0]

    def find_all(self, normals: Sequence[str]) -> list[Match | None]:
        """The same of each of some texts, which `normalize_for_matching` has normalised."""
        found: list[Match | None] = [None] * len(normals)
        keys = np.fromiter(map(_key, normals), np.uint64, len(normals))
        for place in np.flatnonzero(_among(keys, self._keys)).tolist():
            if (equal := self._equal(normals[place])) is not None:
                found[place] = Match("equal", equal, 1.0)
        for place, candidates in self._near_candidates(normals):
            if found[place] is None:
                found[place] = self._nearest(normals[place], candidates)
        return found

    def _near_candidates(self, normals: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
        """Places of texts that may have near-duplicates, each with the evaluation texts that these are among."""
        if self.threshold == 1 or not len(self._bands):
            return
        places = [place for place, normal in enumerate(normals) if len(normal) >= MIN_NEAR_DUPLICATE_CHARS]
        hashes, starts = _shingle_hashes([normals[place] for place in places])
        few = self._few_are_unknown(hashes, starts)
        counts = np.diff(starts)
        chosen = hashes[np.repeat(few, counts)]
        chosen_starts = np.concatenate([[0], np.cumsum(counts[few])])
        for place, candidates in zip(np.flatnonzero(few), self._sharing_a_band(chosen, chosen_starts), strict=True):
            if candidates:
                yield places[place], candidates

    def _few_are_unknown(self, hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Which texts have few enough shingles that no evaluation text has: (texts,) bool."""
        counts = np.diff(starts)  # equal shingles counted each time: no fewer than there are
        slots = self._slots(hashes)
        unknown = np.flatnonzero(~(self._taken[slots >> 3] >> (slots & 7).astype(np.uint8) & 1).view(bool))
        texts = np.repeat(np.arange(len(counts)), counts)[unknown]
        # Of equal shingles one counts: no more than there are, as some of the others may share a slot.
        distinct = np.unique((texts << self._slot_bits) | slots[unknown])
        unknown_counts = np.bincount(distinct >> self._slot_bits, minlength=len(counts))
        return unknown_counts <= (1 - self.threshold) * counts + 0.5  # room for rounding

    def _slots(self, hashes: np.ndarray) -> np.ndarray:
        """Where the filter keeps a shingle: (S,) int64 below 2 ** slot_bits."""
        return (hashes >> np.uint64(64 - self._slot_bits)).astype(np.int64)

    def _nearest(self, normal: str, candidates: Sequence[int]) -> Match | None:
        shingles = _shingles(normal)
        best: Match | None = None
        for number in candidates:
            candidate = self._text(number)
            similarity = _jaccard(shingles, _shingles(normalize_for_matching(candidate)))
            if similarity >= self.threshold and (best is None or similarity > best.similarity):
                best = Match("near-duplicate", candidate, similarity)
        return best

    def _equal(self, normal: str) -> str | None:
        if not normal:
            return None
        key = np.uint64(_key(normal))
        begin, end = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        for number in self._key_texts[begin:end]:
            text = self._text(number)
            if normalize_for_matching(text) == normal:
                return text
        return None

    def _sharing_a_band(self, hashes: np.ndarray, starts: np.ndarray) -> list[list[int]]:
        """Of each set of shingles the texts that share a band, in their order."""
        sharing: list[list[int]] = [[] for _ in starts[1:]]
        bands = _bands(_signatures(hashes, starts), self._rows).ravel()
        sets = np.repeat(np.arange(len(sharing)), self._bands_per_text)
        shared = _among(bands, self._bands)
        begins = np.searchsorted(self._bands, bands[shared], "left")
        ends = np.searchsorted(self._bands, bands[shared], "right")
        for number, begin, end in zip(sets[shared], begins, ends, strict=True):
            sharing[number] += self._band_texts[begin:end].tolist()
        return [sorted(set(texts)) for texts in sharing]

    def _text(self, number: int) -> str:
        return self._blob[self._ends[number] : self._ends[number + 1]].tobytes().decode("utf-8", "surrogatepass")


def is_near_duplicate(normal: str, other: str, threshold: float) -> bool:
    """Return whether two texts normalized by `normalize_for_matching` are equal or at least `threshold` similar."""
    if normal == other:
        return True
    if threshold == 1 or min(len(normal), len(other)) < MIN_NEAR_DUPLICATE_CHARS:
        return False
    return _jaccard(_shingles(normal), _shingles(other)) >= threshold


def _key(normal: str) -> int:
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8"), digest_size=8).digest(), "little")


def _rows_per_band(threshold: float) -> int:
    """Most rows per band, hence fewest false candidates, that miss a text at the threshold rarely enough.

    A text of similarity s shares none of b bands of r rows with probability (1 - s ** r) ** b.
    """
    fits = (r for r in range(_NUM_PERMUTATIONS // 2, 0, -1) if _miss_probability(threshold, r) <= _MAX_MISS_PROBABILITY)
    return next(fits, 1)


def _miss_probability(similarity: float, rows: int) -> float:
    return (1 - similarity**rows) ** (_NUM_PERMUTATIONS // rows)


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of some values stand in a sorted array: (N,) bool."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def _shingles(normal: str) -> np.ndarray:
    """The distinct 5-character shingles of a normalised text as 64-bit hashes, sorted: (S,) uint64."""
    return np.unique(_shingle_hashes([normal])[0])


def _shingle_hashes(normals: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All 5-character shingles of some texts, equal ones as well, one text after the other.

    Returns:
        64-bit hashes (S of all texts,) uint64, and (texts + 1,) where each text's begin and the last one's end.
    """
    lengths = np.fromiter(map(len, normals), np.int64, len(normals))
    counts = np.maximum(lengths - SHINGLE_CHARS + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    codes = np.frombuffer("".join(normals).encode("utf-32-le"), np.uint32).astype(np.uint64)  # (characters,)
    begins = np.cumsum(lengths) - lengths
    places = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], counts)  # of each shingle's first character
    hashes = np.zeros(max(len(codes) - SHINGLE_CHARS + 1, 0), np.uint64)
    for place in range(SHINGLE_CHARS):
        hashes = hashes * _MULTIPLIER + codes[place : place + len(hashes)]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MULTIPLIER
    return hashes[places], starts  # without those across two texts


def _signatures(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """MinHash values of sets that stand one after the other: (sets, 128) uint32, as datasketch's "affine32" has them.

    A set may hold a hash twice; none may be empty.
    """
    values = _mixed((hashes >> np.uint64(32)).astype(np.uint32))
    signatures = np.empty((len(starts) - 1, _NUM_PERMUTATIONS), np.uint32)
    for number, (factor, summand) in enumerate(_PERMUTATIONS.T if len(signatures) else ()):
        signatures[:, number] = np.minimum.reduceat(values * factor + summand, starts[:-1])
    return signatures


def _mixed(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer, elementwise on uint32."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _bands(signatures: np.ndarray, rows: int) -> np.ndarray:
    """One hash per band of `rows` MinHash values, different from band to band: (..., bands) of (..., 128), uint64."""
    bands = _NUM_PERMUTATIONS // rows
    values = signatures[..., : bands * rows].astype(np.uint64).reshape(*signatures.shape[:-1], bands, rows)
    hashes = np.arange(1, bands + 1, dtype=np.uint64)
    for row in range(rows):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + values[..., row]
    return hashes


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Similarity of two sets of distinct hashes. Two empty ones have none in common."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)
