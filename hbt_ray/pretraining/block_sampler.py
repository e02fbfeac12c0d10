"""Which blocks stand in which batch of a pretraining: a pure function of (manifest, settings, seed, step).

A stream is the texts of a language, or of two languages joined, one after the other as the store holds them, and its
end is followed by its beginning. Blocks are windows of `block_tokens` of it, side by side, so every block is full; an
epoch has as many as fit, in a random order, and each epoch begins the first at another token. For every block a
language is drawn, and the k-th block of a language is the same whatever other languages there are.

The contrastive objective's blocks are whole texts: each batch is of one language, and its k-th takes the k-th texts
of a random order.

Legend: G blocks in a global batch, B blocks of it that are asked for: all, or those of one rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from hbt_ray.config import PretrainConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.text_streams import TextStream, find_stream
from hbt_ray.sampling.draw_counts import IndexedDraws
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64, windowed_shuffle_at

ORDER_BLOCK = 64  # windows of a stream worked out at once
ORDER_BLOCKS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class BlocksSpec:
    """The blocks of one global batch, or of a part of it, before any of their text is read."""

    step: int
    first_block: int  # place of the first of the B blocks in the global batch
    global_blocks: int  # G
    streams: np.ndarray  # (B,) numbers of the streams
    places: np.ndarray  # (B,) in the stream, of a window's first token; contrastive: of a text


class TextBlockSampler:
    """The order of a pretraining.

    Args:
        manifest: what the store holds.
        seed: the order's seed.
        languages: restricts the plan to these languages; None takes all.

    Raises:
        ConfigError: a language is not in the store, or has too little text; or no two have parallel text for tlm.
        StoreError: the manifest does not count tokens.
    """

    def __init__(
        self,
        manifest: StoreManifest,
        pretrain: PretrainConfig,
        *,
        seed: int,
        languages: tuple[str, ...] | None = None,
        split: Split = "train",
    ) -> None:
        unknown = sorted(set(languages or ()) - set(manifest.languages))
        if unknown:
            raise ConfigError(
                f"language {unknown[0]!r} is not in the corpora; there are {', '.join(manifest.languages)}"
            )
        self.pretrain = pretrain
        self.languages = tuple(languages or manifest.languages)
        self.whole_texts = pretrain.objective == "contrastive"
        self.joined = pretrain.objective == "tlm"
        choices = list(permutations(self.languages, 2)) if self.joined else [(x,) for x in self.languages]
        found = [find_stream(manifest, choice, split, seed) for choice in choices]
        self.streams = [stream for stream in found if self._epoch(stream)]
        if not self.streams or (split == "train" and not self.joined and len(self.streams) < len(found)):
            raise ConfigError(self._too_little(found, split))
        sizes = np.array([stream.texts if self.whole_texts else stream.tokens for stream in self.streams], float)
        weights = sizes**pretrain.language_sampling
        self.shares: np.ndarray = weights / weights.sum()  # (streams,) the probability that each is drawn
        self._cumulated = np.cumsum(self.shares)
        self._key = stable_hash64(seed, split, Salt.LANGUAGES)
        self._draws = IndexedDraws(self._drawn, len(self.streams))
        self._order = lru_cache(maxsize=ORDER_BLOCKS_KEPT)(self._windows)

    def _epoch(self, stream: TextStream) -> int:
        """How many times a stream can be drawn before any of it comes again."""
        if self.whole_texts:
            return stream.texts // self.pretrain.global_batch_blocks
        return stream.tokens // self.pretrain.block_tokens

    def _too_little(self, found: list[TextStream], split: Split) -> str:
        if self.joined and not any(stream.tokens for stream in found):
            return (
                f"tlm joins parallel texts, and no item has two of {', '.join(self.languages)}; add a parallel corpus "
                "or write pretrain.objective=mlm"
            )
        least = min(found, key=lambda stream: stream.texts if self.whole_texts else stream.tokens)
        where = "to pretrain on" if split == "train" else "held out"
        if self.whole_texts:
            batch = self.pretrain.global_batch_blocks
            return (
                f"{least.name} has {least.texts} texts {where}, and a batch of one language takes {batch}; write a "
                "smaller pretrain.global_batch_blocks, or leave it out of languages"
            )
        return (
            f"{least.name} has {least.tokens} tokens {where}, less than a block of {self.pretrain.block_tokens}; "
            "write a smaller pretrain.block_tokens, or leave it out of languages"
        )

    def _drawn(self, places: np.ndarray) -> np.ndarray:
        drawn = np.searchsorted(self._cumulated, random_uniforms(self._key, places), side="right")
        return np.minimum(drawn, len(self.streams) - 1)

    def batch(self, step: int, part: slice | None = None) -> BlocksSpec:
        """The global batch of a step, for any step >= 0, in any order of calls.

        Args:
            part: the blocks that are asked for, such as a rank's by `rank_slice`; no others are worked out. None: all.
        """
        size = self.pretrain.global_batch_blocks
        start, stop, _ = (part or slice(None)).indices(size)
        if self.whole_texts:
            number, ordinal = self._draws.at(step)
            numbers, places = np.full(stop - start, number), self._texts(self.streams[number], ordinal, start, stop)
        else:
            numbers, ordinals = self._draws.between(step * size + start, step * size + stop)
            at = [self._order(n, k // ORDER_BLOCK)[k % ORDER_BLOCK] for n, k in zip(numbers, ordinals, strict=True)]
            places = np.array(at, np.int64)
        return BlocksSpec(step, start, size, numbers, places)

    def _texts(self, stream: TextStream, ordinal: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) texts at these places of a stream's batch `ordinal`; none twice in an epoch."""
        epoch, place = divmod(ordinal, self._epoch(stream))
        places = place * self.pretrain.global_batch_blocks + np.arange(start, stop)
        return windowed_shuffle_at(places, stream.texts, stable_hash64(stream.key, epoch))

    def _windows(self, number: int, block: int) -> np.ndarray:
        """(ORDER_BLOCK,) where windows of a stream begin, from the `block`-th of as many on."""
        stream = self.streams[number]
        epochs, places = np.divmod(np.arange(ORDER_BLOCK) + block * ORDER_BLOCK, self._epoch(stream))
        begins = np.empty(ORDER_BLOCK, np.int64)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            key = stable_hash64(stream.key, epoch)
            windows = windowed_shuffle_at(places[mine], self._epoch(stream), key)
            turned = stable_hash64(key, Salt.FIRST_TOKEN) % stream.tokens
            begins[mine] = (windows * self.pretrain.block_tokens + turned) % stream.tokens
        return begins
