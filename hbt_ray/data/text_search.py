"""Find texts among the token sequences of a store, whole or as a part of a longer text.

Legend: T tokens of a column, K of a window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.manifest import Split, TextField
from hbt_ray.data.text_normalization import normalize_for_storage
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.tokenizer import PairTokenizer
from hbt_ray.utils.progress import track

Side = Literal["question", "passage", "negative"]
MIN_PART = 6  # tokens; a shorter text is found only whole
_WINDOW = 8  # K, of longer texts
_BLOCK = 1 << 22  # tokens that are hashed at once
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2 ** 64 divided by the golden ratio


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where a store has a text."""

    text: int  # index of the text that was searched for
    source: str
    split: Split
    row: int  # of the item in the source's split
    side: Side
    language: str
    whole: bool  # False: as a part of a longer text
    negative: int = 0  # index among the item's hard negatives


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: int
    ids: np.ndarray
    whole: bool


def find_texts(store: TokenStore, tokenizer: PairTokenizer, texts: Sequence[str]) -> list[TextPlace]:
    """Find texts in a store, which has what was trained on: truncated texts, as token ids.

    1. Normalize and tokenize each text as a question and as a passage of the store, and without prefix and end.
    2. Of the last, leave out the first and the last token, which depend on the words before and after. A text with
       MIN_PART tokens or more is also searched for as a part.
    3. Hash a window in the middle of each pattern, and all windows of that size in each column of the store.
    4. Compare the tokens where hashes are equal.

    Args:
        store: to search.
        tokenizer: of the store.
        texts: to find.

    Returns:
        Every place of every text; a text that is found whole somewhere is not listed as a part of itself there.
    """
    # 1., 2.
    patterns = {side: _patterns(tokenizer, texts, side) for side in get_args(TextField)}
    places: dict[TextPlace, None] = {}
    for source, split, number, table in track(list(_shards(store)), "searching the store", "shards"):
        first_row = sum(shard.items for shard in store.manifest.sources[source].shards[split][:number])
        for name in table.schema.names:
            field, _, language = name.partition("/")
            if field not in ("question", "passage", "negatives"):
                continue
            side: Side = "negative" if field == "negatives" else "question" if field == "question" else "passage"
            ids, starts, rows, numbers = _sequences(table.column(name))
            wanted = patterns["question" if side == "question" else "passage"]
            found = {(pattern.text, index): pattern.whole for index, pattern in _matches(ids, starts, wanted)}
            for (text, index), whole in found.items():
                row = first_row + int(rows[index])
                places[TextPlace(text, source, split, row, side, language, whole, int(numbers[index]))] = None
    return list(places)


def _shards(store: TokenStore) -> Iterator[tuple[str, Split, int, pa.Table]]:
    for source, described in store.manifest.sources.items():
        for split in get_args(Split):
            for number in range(len(described.shards.get(split, ()))):
                yield source, split, number, store.table(source, split, number)


def _patterns(tokenizer: PairTokenizer, texts: Sequence[str], side: TextField) -> list[_Pattern]:
    """Return what to search for in the texts of a side; patterns of whole texts last, since they are more precise."""
    normal = [normalize_for_storage(text) for text in texts]
    whole = tokenizer.encode(normal, side)
    patterns = []
    for text, ids in enumerate(tokenizer.encode_plain(normal)):
        inner = ids[1:-1]
        if len(inner) >= MIN_PART:
            patterns.append(_Pattern(text, inner, whole=False))
    return [*patterns, *(_Pattern(text, ids, whole=True) for text, ids in enumerate(whole) if normal[text])]


def _sequences(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a column's ids (T,), the starts of its N sequences and their end (N + 1,), and the row and number of each.

    A column of lists of sequences has several sequences in a row, which are numbered from 0.
    """
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    rows = np.arange(len(array))
    numbers = np.zeros(len(array), np.int64)
    if pa.types.is_list(array.type.value_type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        rows = np.repeat(rows, lengths)
        numbers = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        array = array.flatten()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    ids = array.flatten().to_numpy(zero_copy_only=False)
    return ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), rows, numbers


def _matches(ids: np.ndarray, starts: np.ndarray, patterns: Sequence[_Pattern]) -> Iterator[tuple[int, _Pattern]]:
    """Yield the index of the sequence, and the pattern, of every match; patterns in their order."""
    by_size: dict[int, list[_Pattern]] = defaultdict(list)
    for pattern in patterns:
        by_size[min(len(pattern.ids), _WINDOW)].append(pattern)
    matches = []
    order = {id(pattern): number for number, pattern in enumerate(patterns)}
    for size, of_size in by_size.items():
        by_hash: dict[int, list[_Pattern]] = defaultdict(list)
        for pattern in of_size:
            middle = (len(pattern.ids) - size) // 2
            by_hash[int(_window_hashes(pattern.ids[middle : middle + size], size)[0])].append(pattern)
        keys = np.array(list(by_hash), np.uint64)
        for begin in range(0, max(len(ids) - size + 1, 0), _BLOCK):
            hashes = _window_hashes(ids[begin : begin + _BLOCK + size - 1], size)
            for position in np.flatnonzero(np.isin(hashes, keys)).tolist():
                for pattern in by_hash[int(hashes[position])]:
                    start = begin + position - (len(pattern.ids) - size) // 2
                    index = int(np.searchsorted(starts, begin + position, "right")) - 1
                    if _is_at(ids, starts[index : index + 2], start, pattern):
                        matches.append((order[id(pattern)], index, pattern))
    return ((index, pattern) for _, index, pattern in sorted(matches, key=lambda match: match[:2]))


def _is_at(ids: np.ndarray, bounds: np.ndarray, start: int, pattern: _Pattern) -> bool:
    """Return whether a sequence, from bounds[0] to bounds[1], has the pattern at `start`, or is it."""
    end = start + len(pattern.ids)
    if start < bounds[0] or end > bounds[1] or (pattern.whole and (start, end) != tuple(bounds)):
        return False
    return bool(np.array_equal(ids[start:end], pattern.ids))


def _window_hashes(ids: np.ndarray, size: int) -> np.ndarray:
    """Hash every window of `size` ids: (len(ids) - size + 1,) uint64."""
    hashes = np.zeros(len(ids) - size + 1, np.uint64)
    for offset in range(size):
        hashes = hashes * _MULTIPLIER + (ids[offset : offset + len(hashes)].astype(np.uint64) + np.uint64(1))
    return hashes ^ (hashes >> np.uint64(32))
