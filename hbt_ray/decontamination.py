"""Which training texts occur in evaluation sets.

The rule: a text occurs when the *whole* of it equals the whole of an evaluation question or passage, both
normalised by `normalise_for_match`; or when the Jaccard similarity of their sets of 5-character shingles reaches a
threshold. A long passage that merely contains a short evaluation sentence such as "Yes." does not match it.
Texts of fewer than 20 normalised characters match by equality alone: there "in 1985" and "in 1986" are alike.

Near-duplicates are sought with MinHash in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets,
section 3.4) and verified by the exact similarity. The bands stand in one sorted array rather than in datasketch's
`MinHashLSH`, whose Python sets take some 11 KB per text in every worker; arrays are shared within a machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from datasketch import MinHash

from hbt_ray.cleaning import normalise_for_match
from hbt_ray.errors import ConfigError

SHINGLE_CHARS = 5
MIN_NEAR_DUPLICATE_CHARS = 20  # normalised
_NUM_PERMUTATIONS = 128
_MAX_MISS_PROBABILITY = 1e-3  # of an evaluation text exactly at the threshold
_PERMUTATIONS = MinHash(_NUM_PERMUTATIONS, seed=1).permutations
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2 ** 64 divided by the golden ratio


@dataclass(frozen=True, slots=True)
class Match:
    kind: Literal["equal", "near-duplicate"]
    text: str  # the evaluation text that was matched
    similarity: float  # Jaccard similarity of the shingles


class EvaluationTexts:
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
            distinct.setdefault(normalise_for_match(text), text)
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
        self._bands_per_text = _NUM_PERMUTATIONS // rows
        sizes = np.zeros(len(numbers), np.int64)
        bands = np.zeros((len(numbers), self._bands_per_text), np.uint64)
        for place, number in enumerate(numbers):
            shingles = _shingles(normals[number])
            sizes[place] = len(shingles)
            bands[place] = _bands(_signature(shingles), rows)
        self._sizes = np.sort(sizes)
        order = np.argsort(bands, axis=None, kind="stable")
        self._bands = bands.ravel()[order]  # (K,) sorted
        self._band_texts = np.repeat(np.array(numbers, np.int32), self._bands_per_text)[order]  # (K,)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, text: str) -> Match | None:
        """The evaluation text that equals this one, else the most similar one at or above the threshold."""
        normal = normalise_for_match(text)
        equal = self._equal(normal)
        if equal is not None:
            return Match("equal", equal, 1.0)
        if self.threshold == 1 or len(normal) < MIN_NEAR_DUPLICATE_CHARS:
            return None
        shingles = _shingles(normal)
        if not self._has_size_near(len(shingles)):
            return None
        best: Match | None = None
        for number in self._candidates(shingles):
            candidate = self._text(number)
            similarity = _jaccard(shingles, _shingles(normalise_for_match(candidate)))
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
            if normalise_for_match(text) == normal:
                return text
        return None

    def _has_size_near(self, size: int) -> bool:
        """Whether any text has a number of shingles that allows the threshold: similarity <= smaller / larger."""
        # Half a shingle of room keeps a ratio that is exactly the threshold inside, whatever its rounding.
        low, high = size * self.threshold - 0.5, size / self.threshold + 0.5
        return bool(np.searchsorted(self._sizes, low) < np.searchsorted(self._sizes, high))

    def _candidates(self, shingles: np.ndarray) -> list[int]:
        """Texts that share a band, in their order."""
        bands = _bands(_signature(shingles), _rows_per_band(self.threshold))
        begins, ends = np.searchsorted(self._bands, bands, "left"), np.searchsorted(self._bands, bands, "right")
        shared = np.flatnonzero(begins < ends)
        return sorted({int(n) for band in shared for n in self._band_texts[begins[band] : ends[band]]})

    def _text(self, number: int) -> str:
        return self._blob[self._ends[number] : self._ends[number + 1]].tobytes().decode("utf-8", "surrogatepass")


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


def _shingles(normal: str) -> np.ndarray:
    """The distinct 5-character shingles of a normalised text as 64-bit hashes, sorted: (S,) uint64."""
    codes = np.frombuffer(normal.encode("utf-32-le"), np.uint32).astype(np.uint64)  # (characters,)
    hashes = np.zeros(max(len(codes) - SHINGLE_CHARS + 1, 0), np.uint64)
    for place in range(SHINGLE_CHARS):
        hashes = hashes * _MULTIPLIER + codes[place : place + len(hashes)]
    hashes ^= hashes >> np.uint64(32)
    return np.unique(hashes * _MULTIPLIER)


def _signature(shingles: np.ndarray) -> np.ndarray:
    """MinHash values of a set of hashes: (128,) uint32."""
    sketch = MinHash(_NUM_PERMUTATIONS, permutations=_PERMUTATIONS, scheme="affine32", hashfunc=int)
    sketch.update_batch((shingles >> np.uint64(32)).tolist())
    return sketch.hashvalues


def _bands(signature: np.ndarray, rows: int) -> np.ndarray:
    """One hash per band of `rows` MinHash values, different from band to band: (bands,) uint64."""
    bands = _NUM_PERMUTATIONS // rows
    values = signature[: bands * rows].astype(np.uint64).reshape(bands, rows)
    hashes = np.arange(1, bands + 1, dtype=np.uint64)
    for row in range(rows):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + values[:, row]
    return hashes


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Similarity of two sets of distinct hashes. Two empty ones have none in common."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)
