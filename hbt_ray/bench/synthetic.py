"""Stores of any size, of random tokens: what speed is measured on where no data is at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hbt_ray.data.token_store import Group, Split, WrittenShard, write_manifest
from hbt_ray.errors import StoreError
from hbt_ray.utils.storage import file_sha256

SOURCE = "synthetic"
SPLIT: Split = "train"
VOCABULARY = 30_522  # BERT's
FIRST_ID = 1000  # ids below are special tokens and BERT's unused ones
ITEMS_PER_SHARD = 16_384
SPARE_SHARE = 0.1  # of the disk's free bytes, left to others


class TextTokens(NamedTuple):
    """How long texts are on average; they are spread evenly from half of it to half as much again."""

    question: int
    passage: int


def write_synthetic_store(
    folder: Path,
    items: int,
    tokens: TextTokens,
    *,
    languages: tuple[str, ...] = ("de", "en"),
    vocabulary: int = VOCABULARY,
) -> Path:
    """A store of parallel items of random token ids, as `hbt prepare` would leave it.

    Args:
        languages: that every item has.
        vocabulary: ids lie below this, as those of a model with so many tokens.

    Returns:
        The folder, which is found again where it holds such a store already.

    Raises:
        StoreError: the disk has too little room, or cannot be written.
    """
    if (folder / "manifest.json").exists():
        return folder
    needed = items * bytes_per_item(tokens, len(languages))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > (1 - SPARE_SHARE) * free:
        raise StoreError(
            f"a store of {items:,} items takes {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; "
            "name a folder with more room by --out"
        )
    rng = np.random.default_rng(0)
    shards = []
    for number, first in enumerate(range(0, items, ITEMS_PER_SHARD)):
        numbers = np.arange(first, min(first + ITEMS_PER_SHARD, items))
        columns: dict[str, pa.Array] = {"item_id": _names(numbers)}
        for language in sorted(languages):
            columns[f"question/{language}"] = _sequences(rng, len(numbers), tokens.question, vocabulary)
            columns[f"passage/{language}"] = _sequences(rng, len(numbers), tokens.passage, vocabulary)
            columns[f"negatives/{language}"] = _no_negatives(len(numbers))
        shards.append(_write(folder, number, pa.table(columns), Group(tuple(sorted(languages)), 0)))
    write_manifest(folder, shards, text_fingerprint="synthetic", token_type="uint16")
    return folder


def bytes_per_item(tokens: TextTokens, num_languages: int) -> int:
    """On disk: two bytes a token, four for each list's offset, and the name.

    >>> bytes_per_item(TextTokens(4, 8), 2)
    85
    """
    of_language = 2 * sum(tokens) + 3 * 4
    return num_languages * of_language + NAME_DIGITS + 4


NAME_DIGITS = 9  # names of equal length, so that their order is that of their numbers


def _names(numbers: np.ndarray) -> pa.Array:
    """Each number in decimal digits, with leading zeros."""
    digits = numbers[:, None] // 10 ** np.arange(NAME_DIGITS - 1, -1, -1) % 10 + ord("0")
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * NAME_DIGITS
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits.astype(np.uint8).tobytes())]
    return pa.Array.from_buffers(pa.string(), len(numbers), buffers)


def _sequences(rng: np.random.Generator, count: int, mean: int, vocabulary: int) -> pa.Array:
    lengths = rng.integers(mean - mean // 2, mean + mean // 2 + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = rng.integers(min(FIRST_ID, vocabulary // 2), min(vocabulary, VOCABULARY), offsets[-1], dtype=np.uint16)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))


def _no_negatives(count: int) -> pa.Array:
    none = pa.array([], pa.list_(pa.uint16()))
    return pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), none)


def _write(folder: Path, number: int, table: pa.Table, group: Group) -> WrittenShard:
    file = f"{SOURCE}/{SPLIT}-{number:05d}.arrow"
    path = folder / file
    try:
        path.parent.mkdir(exist_ok=True)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=table.num_rows)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); name a folder with room by --out") from None
    return WrittenShard(SOURCE, SPLIT, number, file, table.num_rows, ((group, table.num_rows),), file_sha256(path))
