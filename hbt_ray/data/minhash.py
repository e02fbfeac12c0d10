"""MinHash signatures of texts' shingles, and their bands for locality-sensitive hashing, as array kernels.

Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4. The permutations are datasketch's,
so signatures equal those of its scheme "affine32". All shingles of many texts are hashed at once.

Legend: N texts, S shingles of all of them, P = NUM_PERMUTATIONS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasketch import MinHash

SHINGLE_CHARS = 5
NUM_PERMUTATIONS = 128
MAX_MISS_PROBABILITY = 1e-3  # of a text whose similarity equals the threshold
_PERMUTATIONS = MinHash(NUM_PERMUTATIONS, seed=1).permutations  # (2, P) uint32: factors and summands
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2 ** 64 divided by the golden ratio


def choose_band_rows(threshold: float) -> int:
    """Return the maximum number of rows per band whose probability to miss a text at the threshold is low enough.

    More rows give fewer false candidates.
    """
    for rows in range(NUM_PERMUTATIONS // 2, 0, -1):
        if miss_probability(threshold, rows) <= MAX_MISS_PROBABILITY:
            return rows
    return 1


def miss_probability(similarity: float, rows: int) -> float:
    """Return the probability (1 - s ** r) ** b that texts of similarity s share none of b bands of r rows."""
    return (1 - similarity**rows) ** (NUM_PERMUTATIONS // rows)


def shingle_set(text: str) -> np.ndarray:
    """Return the hashes of a text's distinct shingles, sorted, uint64."""
    return sorted_distinct(hash_shingles([text])[0])


def sorted_distinct(values: np.ndarray) -> np.ndarray:
    """Return the distinct values of an array of integers, sorted.

    `np.unique` does the same through a hash table where it returns nothing else, which is 20 times slower than sorting.
    """
    return np.unique(values, return_counts=True)[0]


def hash_shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash all 5-character shingles of N texts, repeated ones as well.

    1. Concatenate the texts and compute a polynomial hash of every 5 characters.
    2. Mix the bits.
    3. Leave out the shingles that span two texts.

    Returns:
        hashes (S,) uint64, text by text, and (N + 1,) offsets of the texts in them.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.maximum(lengths - SHINGLE_CHARS + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # 1.
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)  # (characters,)
    hashes = np.zeros(max(len(codes) - SHINGLE_CHARS + 1, 0), np.uint64)
    for position in range(SHINGLE_CHARS):
        hashes = hashes * _MULTIPLIER + codes[position : position + len(hashes)]
    # 2.
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MULTIPLIER
    # 3.
    text_starts = np.cumsum(lengths) - lengths
    first_characters = np.arange(offsets[-1]) + np.repeat(text_starts - offsets[:-1], counts)
    return hashes[first_characters], offsets


def minhash_signatures(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the MinHash values of N concatenated sets of hashes: (N, P) uint32.

    A set may contain a hash twice; none may be empty.
    """
    values = _mix((hashes >> np.uint64(32)).astype(np.uint32))
    signatures = np.empty((len(offsets) - 1, NUM_PERMUTATIONS), np.uint32)
    for number, (factor, summand) in enumerate(_PERMUTATIONS.T if len(signatures) else ()):
        signatures[:, number] = np.minimum.reduceat(values * factor + summand, offsets[:-1])
    return signatures


def _mix(values: np.ndarray) -> np.ndarray:
    """Compute MurmurHash3's finalizer, elementwise on uint32."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def hash_bands(signatures: np.ndarray, rows: int) -> np.ndarray:
    """Hash each band of `rows` MinHash values; equal values in different bands have different hashes.

    (..., P) -> (..., P // rows) uint64
    """
    bands = NUM_PERMUTATIONS // rows
    values = signatures[..., : bands * rows].astype(np.uint64).reshape(*signatures.shape[:-1], bands, rows)
    hashes = np.arange(1, bands + 1, dtype=np.uint64)
    for row in range(rows):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + values[..., row]
    return hashes


def jaccard_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jaccard similarity of two arrays of distinct hashes; 0 if both are empty."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)
