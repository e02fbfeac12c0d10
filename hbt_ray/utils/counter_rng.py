"""Counter-based random numbers and permutations: functions of a key and an index, without state.

numpy's Philox is counter-based, too, but needs a generator object for each index.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import numpy as np

ROUNDS = 6  # of the Feistel network
WINDOW = 65536  # indices are permuted within windows of this size, so that reading stays local


class Salt(StrEnum):
    """Name every random stream, so that two that begin with one seed differ.

    These strings are data: changing one changes every batch, mask and weight that is drawn with it. A value is never
    renamed; a member may be. Streams have other salts as well, which are no members: languages, names of sources and
    settings, splits ("train", "validation"), kinds of batches ("monolingual", "cross-lingual", "mixed", "one-to-k"),
    and the text fields of a store ("question", "passage"), which distinguish the keys of equal texts in mining.
    """

    # Shuffling
    SHORT_WINDOW = "short"
    WINDOW_ORDER = "windows"
    WITHIN_WINDOW = "window"
    ROTATION = "turn"
    # Preparing
    SPLIT = "split"
    SHARD = "shard"
    PLAIN_TEXT = "line"
    # Batches
    KIND = "kind"  # of a batch; and of what a masked token becomes
    STREAM = "stream"
    LANGUAGES = "languages"  # of a pair; and of a block
    POSITIVE_LANGUAGES = "positives"
    QUERY_TRANSLATION = "second"
    # Blocks
    TEXTS = "texts"
    FIRST_TOKEN = "first token"
    MASK = "mask"
    HELD_OUT_MASK = "held out"
    MASKED_POSITIONS = "told"
    RANDOM_TOKEN = "other"
    # Weights and dropout
    ENCODER_WEIGHTS = "weights"
    LORA_WEIGHTS = "lora"
    HEAD_WEIGHTS = "head"
    DROPOUT = "dropout"
    QUERY = "query"
    PASSAGE = "passage"
    # Perturbed queries
    PERTURBATION = "perturbation"
    # Debiasing
    FITTING_ITEM = "fitting item"


def stable_hash64(*parts: object) -> int:
    """Return a 64-bit hash of names and numbers, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(values: np.ndarray) -> np.ndarray:
    """Compute the finalizer of SplitMix64 (Steele, Lea, Flood 2014), elementwise on uint64."""
    values = values.astype(np.uint64, copy=True)
    values ^= values >> _30
    values *= _FIRST
    values ^= values >> _27
    values *= _SECOND
    values ^= values >> _31
    return values


_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def random_bits(key: int, index: np.ndarray) -> np.ndarray:
    """Return the 64 random bits at each index of the infinite sequence named by `key`: (N,) -> (N,) uint64."""
    steps = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return mix(mix(steps + np.uint64(key)))


def random_uniforms(key: int, index: np.ndarray) -> np.ndarray:
    """Return uniform numbers in [0, 1) at each index: (N,) -> (N,) float64 with 53 random bits."""
    return (random_bits(key, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_permutation_at(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Evaluate a random permutation of range(size) at each index.

    A Feistel network over the next power of four is applied until the value is in the range: cycle walking
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). The cost does not depend on the size.

    Args:
        index: (N,) integers in range(size).
        size: of the range.
        key: names the permutation.

    Returns:
        (N,) int64, distinct where the indices are.
    """
    half_bits = max((int(size - 1).bit_length() + 1) // 2, 1)
    values = index.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, key)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def windowed_shuffle_at(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Evaluate a locality-preserving random permutation of range(size) at some positions: (N,) -> (N,) int64.

    1. Cut the range into windows of WINDOW indices; the last may be shorter.
    2. Permute the full windows, and insert the short one at a random position among them.
    3. Permute the indices within each window.
    4. Rotate the values by a random amount.
    """
    num_full, short = divmod(size, WINDOW)
    short_start = int(stable_hash64(key, Salt.SHORT_WINDOW) % (num_full + 1)) * WINDOW
    in_short = (positions >= short_start) & (positions < short_start + short)
    after_short = positions >= short_start + short
    full_positions = positions - np.where(after_short, short, 0)
    values = np.empty(len(positions), np.int64)
    windows = np.full(len(positions), num_full)
    if num_full:
        window_positions, inverse = np.unique(full_positions[~in_short] // WINDOW, return_inverse=True)
        permuted = random_permutation_at(window_positions, num_full, stable_hash64(key, Salt.WINDOW_ORDER))
        windows[~in_short] = permuted[inverse]
    within = np.where(in_short, positions - short_start, full_positions % WINDOW)
    for window in np.unique(windows):
        in_window = windows == window
        window_size = short if window == num_full else WINDOW
        values[in_window] = window * WINDOW + random_permutation_at(
            within[in_window], window_size, stable_hash64(key, Salt.WITHIN_WINDOW, window)
        )
    return (values + stable_hash64(key, Salt.ROTATION) % size) % size


def _feistel(values: np.ndarray, half_bits: int, key: int) -> np.ndarray:
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (mix(right + round_key) & mask)
    return (left << shift) | right


def _round_keys(key: int) -> np.ndarray:
    return random_bits(key, np.arange(ROUNDS))
