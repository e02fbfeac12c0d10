"""Random numbers and permutations addressed by index: nothing is drawn in order, nothing is kept."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import numpy as np

ROUNDS = 6
WINDOW = 65536  # places are permuted inside windows of this many neighbours, so that reading stays local


class Salt(StrEnum):
    """Name every random stream, so that two that begin with one seed differ.

    These strings are data: changing one changes every batch, mask and weight that is drawn with it. A value is never
    renamed; a member may be. Streams are salted as well by what users write and stores hold, which is no member of its
    own: languages, the names of sources and settings, the splits ("train", "validation"), the kinds of batches
    ("monolingual", "cross-lingual", "mixed", "one-to-k"), and the sides of a store ("question", "passage"), with which
    the keys of equal texts are told apart when negatives are mined.
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


def stable_hash64(*parts: object) -> int:
    """A 64-bit key from names and numbers, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014), elementwise on uint64."""
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
    """The 64 random bits that stand at each place of the endless sequence named by `key`."""
    steps = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return mix(mix(steps + np.uint64(key)))


def random_uniforms(key: int, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1), likewise; float64 with 53 random bits."""
    return (random_bits(key, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_permutation_at(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a random permutation of range(size) sends each index.

    A Feistel network over the next power of four, walked until the value falls inside the range
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Costs the same for any size.

    Args:
        index: (N,) integers in range(size).

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


def windowed_shuffle_at(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """What stands at some places of a random order of range(size) in which neighbours stay near: (N,) -> (N,) int64.

    The range is turned by a random amount and cut in windows of neighbours; windows come in random order (the short
    one, if any, at a random place among them), and what they hold in random order inside its window.
    """
    num_full, short = divmod(size, WINDOW)
    short_start = int(stable_hash64(key, Salt.SHORT_WINDOW) % (num_full + 1)) * WINDOW
    in_short = (places >= short_start) & (places < short_start + short)
    after_short = places >= short_start + short
    full_places = places - np.where(after_short, short, 0)
    found = np.empty(len(places), np.int64)
    windows = np.full(len(places), num_full)
    if num_full:
        turns, which = np.unique(full_places[~in_short] // WINDOW, return_inverse=True)
        windows[~in_short] = random_permutation_at(turns, num_full, stable_hash64(key, Salt.WINDOW_ORDER))[which]
    within = np.where(in_short, places - short_start, full_places % WINDOW)
    for window in np.unique(windows):
        mine = windows == window
        window_size = short if window == num_full else WINDOW
        found[mine] = window * WINDOW + random_permutation_at(
            within[mine], window_size, stable_hash64(key, Salt.WITHIN_WINDOW, window)
        )
    return (found + stable_hash64(key, Salt.ROTATION) % size) % size


def _feistel(values: np.ndarray, half_bits: int, key: int) -> np.ndarray:
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (mix(right + round_key) & mask)
    return (left << shift) | right


def _round_keys(key: int) -> np.ndarray:
    return random_bits(key, np.arange(ROUNDS))
