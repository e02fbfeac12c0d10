"""Text streams: all texts of a language, or the parallel texts of two languages joined, in the order of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbt_ray.data.manifest import ShardInfo, Split, StoreManifest, TextField
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import StoreError
from hbt_ray.utils.counter_rng import Salt, stable_hash64

FIELDS: tuple[TextField, ...] = ("question", "passage")
Texts = tuple[np.ndarray, np.ndarray]  # concatenated ids of N texts, and their (N,) lengths; both int32


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of a shard, of which a stream takes one text field."""

    source: str
    field: TextField
    shard: int  # its number in the source's split
    first_row: int  # in the shard
    rows: int
    tokens: int


@dataclass(frozen=True)
class TextStream:
    """The concatenated texts of a language, or of two: each item's text in one, followed by its text in the other.

    Tokens and texts are numbered from 0 over all row ranges.
    """

    languages: tuple[str, ...]
    split: Split
    row_ranges: tuple[RowRange, ...]
    key: int  # of the stream's permutations

    @property
    def name(self) -> str:
        """Languages, joined by "-"."""
        return "-".join(self.languages)

    @cached_property
    def token_ends(self) -> np.ndarray:
        """Tokens up to the end of each row range, (ranges,)."""
        return np.cumsum([row_range.tokens for row_range in self.row_ranges], dtype=np.int64)

    @cached_property
    def text_ends(self) -> np.ndarray:
        """Texts up to the end of each row range, (ranges,)."""
        return np.cumsum([row_range.rows for row_range in self.row_ranges], dtype=np.int64)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.token_ends[-1]) if self.row_ranges else 0

    @property
    def texts(self) -> int:
        """Number of texts; a joined pair of texts counts as one."""
        return int(self.text_ends[-1]) if self.row_ranges else 0


def find_stream(manifest: StoreManifest, languages: tuple[str, ...], split: Split, seed: int) -> TextStream:
    """Find all texts that the store has in the languages, from the manifest's counts, without reading a shard.

    Raises:
        StoreError: the manifest has no token counts.
    """
    row_ranges: list[RowRange] = []
    for name, source in manifest.sources.items():
        eligible = {number for number, group in enumerate(source.groups) if set(languages) <= set(group.languages)}
        for field in FIELDS:
            for number, shard in enumerate(source.shards.get(split, ())):
                row_ranges += _row_ranges(name, field, number, shard, languages, eligible)
    return TextStream(languages, split, tuple(row_ranges), stable_hash64(seed, split, Salt.TEXTS, *languages))


def _row_ranges(
    source: str, field: TextField, number: int, shard: ShardInfo, languages: tuple[str, ...], eligible: set[int]
) -> Iterator[RowRange]:
    """Yield the row ranges of a shard's text field; adjacent ones are merged."""
    first_row = rows = tokens = row = 0
    for run, (group, items) in enumerate(shard.runs):
        run_tokens = sum(_tokens(shard, field, language)[run] for language in languages) if group in eligible else 0
        if run_tokens:
            first_row, rows, tokens = (first_row if rows else row), rows + items, tokens + run_tokens
        elif rows:
            yield RowRange(source, field, number, first_row, rows, tokens)
            rows = tokens = 0
        row += items
    if rows:
        yield RowRange(source, field, number, first_row, rows, tokens)


def _tokens(shard: ShardInfo, field: TextField, language: str) -> tuple[int, ...]:
    try:
        return shard.tokens[f"{field}/{language}"]
    except KeyError:
        raise StoreError("the store does not count its tokens; delete it, and prepare it again") from None


def read_window(store: TokenStore, stream: TextStream, start: int, tokens: int) -> Texts:
    """Read consecutive tokens of a stream; after its last token it starts again at its first.

    Args:
        store: that the stream was found in.
        stream: of one or two languages.
        start: number of the first token in the stream.
        tokens: to read.

    Returns:
        ids (tokens,) int32, and lengths (texts,) int32 of the texts, or parts of texts, in the window.
    """
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    while tokens:
        number = int(np.searchsorted(stream.token_ends, start, "right"))
        row_range = stream.row_ranges[number]
        offset = start - int(stream.token_ends[number]) + row_range.tokens
        taken = min(tokens, row_range.tokens - offset)
        read = _read_one_language if len(stream.languages) == 1 else _read_joined
        range_ids, range_lengths = read(store, stream, row_range, offset, offset + taken)
        ids.append(range_ids)
        lengths.append(range_lengths)
        start, tokens = (start + taken) % stream.tokens, tokens - taken
    return np.concatenate(ids).astype(np.int32), np.concatenate(lengths).astype(np.int32)


def _read_one_language(store: TokenStore, stream: TextStream, row_range: RowRange, start: int, end: int) -> Texts:
    """Read the tokens [start, end) of a row range."""
    values, offsets = store.column(
        row_range.source, row_range.field, stream.languages[0], row_range.shard, stream.split
    )
    begin = int(offsets[row_range.first_row])
    return values[begin + start : begin + end], _lengths_between(offsets, begin + start, begin + end)


def _read_joined(store: TokenStore, stream: TextStream, row_range: RowRange, start: int, end: int) -> Texts:
    """Read the tokens [start, end) of a row range whose items' texts in all languages are joined.

    1. Compute where each item's joined text ends, from the offsets of all languages.
    2. Read the items that overlap [start, end), each in all languages.
    3. Cut the result at start and end.
    """
    rows = slice(row_range.first_row, row_range.first_row + row_range.rows + 1)
    columns = [
        store.column(row_range.source, row_range.field, language, row_range.shard, stream.split)
        for language in stream.languages
    ]
    # 1. Ends, (rows + 1,), the first of them 0
    ends = np.sum([offsets[rows].astype(np.int64) - offsets[rows.start] for _, offsets in columns], axis=0)
    # 2. Items
    first, last = int(np.searchsorted(ends, start, "right")) - 1, int(np.searchsorted(ends, end, "left"))
    texts = [
        values[offsets[rows.start + item] : offsets[rows.start + item + 1]]
        for item in range(first, last)
        for values, offsets in columns
    ]
    # 3. Cut
    return np.concatenate(texts)[start - ends[first] : end - ends[first]], _lengths_between(ends, start, end)


def _lengths_between(offsets: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return the lengths of the parts of texts in [start, end), for texts that begin at `offsets`."""
    inner = offsets[np.searchsorted(offsets, start, "right") : np.searchsorted(offsets, end, "left")]
    lengths = np.diff(np.concatenate([[start], inner, [end]]))
    return lengths[lengths > 0]


def read_texts(store: TokenStore, stream: TextStream, texts: np.ndarray) -> Texts:
    """Read whole texts of a stream of one language, (N,) numbers in the stream."""
    found = []
    for number, text in zip(np.searchsorted(stream.text_ends, texts, "right").tolist(), texts.tolist(), strict=True):
        row_range = stream.row_ranges[number]
        values, offsets = store.column(
            row_range.source, row_range.field, stream.languages[0], row_range.shard, stream.split
        )
        row = row_range.first_row + text - int(stream.text_ends[number]) + row_range.rows
        found.append(values[offsets[row] : offsets[row + 1]])
    return np.concatenate(found).astype(np.int32), np.array([len(ids) for ids in found], np.int32)
