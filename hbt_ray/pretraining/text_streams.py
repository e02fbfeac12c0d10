"""What blocks are cut from: all texts of a language, or the parallel texts of two joined, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbt_ray.data.manifest import ShardInfo, Split, StoreManifest, TextField
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import StoreError
from hbt_ray.utils.counter_rng import Salt, stable_hash64

SIDES: tuple[TextField, ...] = ("question", "passage")


@dataclass(frozen=True, slots=True)
class RowRange:
    """Neighbouring rows of a shard, of which a stream takes one side."""

    source: str
    side: TextField
    shard: int  # its number in the source's split
    first_row: int  # in the shard
    rows: int
    tokens: int


@dataclass(frozen=True)
class TextStream:
    """The texts of a language, or of two: each item's text in one and, joined to it, in the other."""

    languages: tuple[str, ...]
    split: Split
    stretches: tuple[RowRange, ...]
    key: int

    @property
    def name(self) -> str:
        return "-".join(self.languages)

    @cached_property
    def token_ends(self) -> np.ndarray:
        """(stretches,) tokens up to and with each."""
        return np.cumsum([stretch.tokens for stretch in self.stretches], dtype=np.int64)

    @cached_property
    def text_ends(self) -> np.ndarray:
        """(stretches,) texts up to and with each."""
        return np.cumsum([stretch.rows for stretch in self.stretches], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self.token_ends[-1]) if self.stretches else 0

    @property
    def texts(self) -> int:
        return int(self.text_ends[-1]) if self.stretches else 0


def find_stream(manifest: StoreManifest, languages: tuple[str, ...], split: Split, seed: int) -> TextStream:
    """All that the store has in the languages, from the manifest's counts alone.

    Raises:
        StoreError: the manifest does not count tokens.
    """
    stretches: list[RowRange] = []
    for name, source in manifest.sources.items():
        serving = {n for n, group in enumerate(source.groups) if set(languages) <= set(group.languages)}
        for side in SIDES:
            for number, shard in enumerate(source.shards.get(split, ())):
                stretches += _stretches(name, side, number, shard, languages, serving)
    return TextStream(languages, split, tuple(stretches), stable_hash64(seed, split, Salt.TEXTS, *languages))


def _stretches(
    source: str, side: TextField, number: int, shard: ShardInfo, languages: tuple[str, ...], serving: set[int]
) -> Iterator[RowRange]:
    """Those of one shard's side; runs that lie side by side are one."""
    first_row = rows = tokens = row = 0
    for run, (group, items) in enumerate(shard.runs):
        own = sum(_tokens(shard, side, language)[run] for language in languages) if group in serving else 0
        if own:
            first_row, rows, tokens = (first_row if rows else row), rows + items, tokens + own
        elif rows:
            yield RowRange(source, side, number, first_row, rows, tokens)
            rows = tokens = 0
        row += items
    if rows:
        yield RowRange(source, side, number, first_row, rows, tokens)


def _tokens(shard: ShardInfo, side: TextField, language: str) -> tuple[int, ...]:
    try:
        return shard.tokens[f"{side}/{language}"]
    except KeyError:
        raise StoreError("the store does not count its tokens; delete it, and prepare it again") from None


def read_window(store: TokenStore, stream: TextStream, start: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring tokens of a stream, whose end is followed by its beginning.

    Args:
        start: the first, counted over the whole stream.

    Returns:
        ids (tokens,) int32, and lengths (texts,) int32 of the texts, or parts of texts, that they are of.
    """
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    while tokens:
        number = int(np.searchsorted(stream.token_ends, start, "right"))
        stretch = stream.stretches[number]
        within = start - int(stream.token_ends[number]) + stretch.tokens
        taken = min(tokens, stretch.tokens - within)
        read = _read_one if len(stream.languages) == 1 else _read_joined
        own_ids, own_lengths = read(store, stream, stretch, within, within + taken)
        ids.append(own_ids)
        lengths.append(own_lengths)
        start, tokens = (start + taken) % stream.tokens, tokens - taken
    return np.concatenate(ids).astype(np.int32), np.concatenate(lengths).astype(np.int32)


def _read_one(
    store: TokenStore, stream: TextStream, stretch: RowRange, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    values, offsets = store.column(stretch.source, stretch.side, stream.languages[0], stretch.shard, stream.split)
    begin = int(offsets[stretch.first_row])
    return values[begin + start : begin + end], _lengths(offsets, begin + start, begin + end)


def _read_joined(
    store: TokenStore, stream: TextStream, stretch: RowRange, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    rows = slice(stretch.first_row, stretch.first_row + stretch.rows + 1)
    columns = [store.column(stretch.source, stretch.side, x, stretch.shard, stream.split) for x in stream.languages]
    ends = np.sum([offsets[rows].astype(np.int64) - offsets[rows.start] for _, offsets in columns], axis=0)
    first, last = int(np.searchsorted(ends, start, "right")) - 1, int(np.searchsorted(ends, end, "left"))
    texts = [
        values[offsets[rows.start + item] : offsets[rows.start + item + 1]]
        for item in range(first, last)
        for values, offsets in columns
    ]
    return np.concatenate(texts)[start - ends[first] : end - ends[first]], _lengths(ends, start, end)


def _lengths(offsets: np.ndarray, start: int, end: int) -> np.ndarray:
    """Of the texts that begin at `offsets`, how much lies in [start, end)."""
    inner = offsets[np.searchsorted(offsets, start, "right") : np.searchsorted(offsets, end, "left")]
    lengths = np.diff(np.concatenate([[start], inner, [end]]))
    return lengths[lengths > 0]


def read_texts(store: TokenStore, stream: TextStream, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some texts of a stream of one language, by their numbers in it: ids, and lengths (N,) int32."""
    found = []
    for number, text in zip(np.searchsorted(stream.text_ends, texts, "right").tolist(), texts.tolist(), strict=True):
        stretch = stream.stretches[number]
        values, offsets = store.column(stretch.source, stretch.side, stream.languages[0], stretch.shard, stream.split)
        row = stretch.first_row + text - int(stream.text_ends[number]) + stretch.rows
        found.append(values[offsets[row] : offsets[row + 1]])
    return np.concatenate(found).astype(np.int32), np.array([len(ids) for ids in found], np.int32)
