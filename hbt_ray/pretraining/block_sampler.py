"""The sampler of pretraining: which blocks are in which batch, a pure function of (manifest, settings, seed, step).

Legend: G blocks in a global batch, B blocks in the requested part of it (all of them, or those of one rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from hbt_ray.config import PretrainConfig
from hbt_ray.data.manifest import Split, StoreManifest
from hbt_ray.errors import ConfigError
from hbt_ray.pretraining.text_streams import TextStream, find_stream
from hbt_ray.sampling.base import StepSampler
from hbt_ray.sampling.draw_counts import IndexedDraws
from hbt_ray.utils.caching import lru_cached_method
from hbt_ray.utils.counter_rng import Salt, random_uniforms, stable_hash64, windowed_shuffle_at

BLOCK_WINDOWS = 64  # windows of a stream computed at once
CACHED_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class BlockBatchSpec:
    """The blocks of a global batch, or of a part of it, before any text is read."""

    step: int
    first_block: int  # position of the first of the B blocks in the global batch
    global_blocks: int  # G
    streams: np.ndarray  # (B,) numbers of the streams
    places: np.ndarray  # (B,) number of a block's first token in its stream; contrastive: number of a text


class TextBlockSampler(StepSampler[BlockBatchSpec]):
    """Draw batches of blocks of text.

    Masked objectives (`mlm`, `tlm`). A block is a window of `block_tokens` tokens of a stream, so every block is full:

    1. Draw a stream for each block of the batch. Its ordinal is the number of earlier blocks of the same stream.
    2. Each epoch of a stream has as many adjacent windows as fit, in a seeded permutation.
    3. Rotate the windows of each epoch by a random number of tokens, so that texts are cut elsewhere in each epoch.

    `contrastive`. A block is a whole text:

    1. Draw one stream for the batch. Its ordinal is the number of earlier batches of the same stream.
    2. Take the ordinal's G texts of the epoch's permutation; a rest of fewer than G texts is skipped in this epoch.

    The k-th block of a language does not depend on which other languages are drawn from.

    Args:
        manifest: contents of the token store.
        pretrain: settings.
        seed: of all draws.
        languages: languages to draw from; None: all languages of the store.
        split: of the store.
        leaves_out_short: leave out languages with less text than a block, which are an error otherwise.

    Raises:
        ConfigError: a language is not in the store or has too little text, or `tlm` and no item has two languages.
        StoreError: the manifest has no token counts.
    """

    def __init__(
        self,
        manifest: StoreManifest,
        pretrain: PretrainConfig,
        *,
        seed: int,
        languages: tuple[str, ...] | None = None,
        split: Split = "train",
        leaves_out_short: bool = False,
    ) -> None:
        super().__init__(manifest, languages, pretrain.global_batch_blocks)
        self.pretrain = pretrain
        self.draws_whole_texts = pretrain.objective == "contrastive"
        self.joins_languages = pretrain.objective == "tlm"
        choices = list(permutations(self.languages, 2)) if self.joins_languages else [(x,) for x in self.languages]
        found = [find_stream(manifest, choice, split, seed) for choice in choices]
        self.streams = [stream for stream in found if self._epoch_draws(stream)]
        # Some language pairs, or some held-out texts, may be too short. A language to train on may not.
        may_lack_some = leaves_out_short or split != "train" or self.joins_languages
        if not self.streams or (len(self.streams) < len(found) and not may_lack_some):
            raise ConfigError(self._too_little_text(found, split))
        sizes = np.array([self._size(stream) for stream in self.streams], float)
        weights = sizes**pretrain.language_sampling
        self.probabilities: np.ndarray = weights / weights.sum()  # (streams,)
        self._cumulative = np.cumsum(self.probabilities)
        self._key = stable_hash64(seed, split, Salt.LANGUAGES)
        self._draws = IndexedDraws(self._stream_numbers, len(self.streams))

    def _size(self, stream: TextStream) -> int:
        return stream.texts if self.draws_whole_texts else stream.tokens

    def _epoch_draws(self, stream: TextStream) -> int:
        """Return the number of draws in an epoch: batches of texts, or windows."""
        if self.draws_whole_texts:
            return stream.texts // self.pretrain.global_batch_blocks
        return stream.tokens // self.pretrain.block_tokens

    def _too_little_text(self, found: list[TextStream], split: Split) -> str:
        if self.joins_languages and not any(stream.tokens for stream in found):
            return (
                f"tlm joins parallel texts, and no item has two of {', '.join(self.languages)}; add a parallel corpus "
                "or write pretrain.objective=mlm"
            )
        smallest = min(found, key=self._size)
        purpose = "to pretrain on" if split == "train" else "held out"
        if self.draws_whole_texts:
            return (
                f"{smallest.name} has {smallest.texts} texts {purpose}, and a batch of one language takes "
                f"{self.pretrain.global_batch_blocks}; write a smaller pretrain.global_batch_blocks, or leave it out "
                "of languages"
            )
        return (
            f"{smallest.name} has {smallest.tokens} tokens {purpose}, less than a block of "
            f"{self.pretrain.block_tokens}; write a smaller pretrain.block_tokens, or leave it out of languages"
        )

    def _stream_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Return the number of the stream of each draw, (N,) -> (N,)."""
        drawn = np.searchsorted(self._cumulative, random_uniforms(self._key, indices), side="right")
        return np.minimum(drawn, len(self.streams) - 1)  # the last sum may round below 1

    def _draw(self, step: int, start: int, stop: int) -> BlockBatchSpec:
        size = self.global_batch_size
        if self.draws_whole_texts:
            number, ordinal = self._draws.at(step)
            numbers = np.full(stop - start, number)
            places = self._texts(self.streams[number], ordinal, start, stop)
        else:
            numbers, ordinals = self._draws.between(step * size + start, step * size + stop)
            windows = [
                self._windows(number, ordinal // BLOCK_WINDOWS)[ordinal % BLOCK_WINDOWS]
                for number, ordinal in zip(numbers.tolist(), ordinals.tolist(), strict=True)
            ]
            places = np.array(windows, np.int64)
        return BlockBatchSpec(step, start, size, numbers, places)

    def _texts(self, stream: TextStream, ordinal: int, start: int, stop: int) -> np.ndarray:
        """Return the texts at positions [start, stop) of a stream's batch, (stop - start,); distinct in an epoch."""
        epoch, batch = divmod(ordinal, self._epoch_draws(stream))
        positions = batch * self.pretrain.global_batch_blocks + np.arange(start, stop)
        return windowed_shuffle_at(positions, stream.texts, stable_hash64(stream.key, epoch))

    @lru_cached_method(CACHED_BLOCKS)
    def _windows(self, number: int, block: int) -> np.ndarray:
        """Return the first tokens of BLOCK_WINDOWS consecutive windows of a stream, (BLOCK_WINDOWS,)."""
        stream = self.streams[number]
        epoch_windows = self._epoch_draws(stream)
        epochs, positions = np.divmod(np.arange(BLOCK_WINDOWS) + block * BLOCK_WINDOWS, epoch_windows)
        first_tokens = np.empty(BLOCK_WINDOWS, np.int64)
        for epoch in np.unique(epochs).tolist():
            in_epoch = epochs == epoch
            key = stable_hash64(stream.key, epoch)
            # 2. Permutation of the epoch's windows
            windows = windowed_shuffle_at(positions[in_epoch], epoch_windows, key)
            # 3. Rotation
            rotation = stable_hash64(key, Salt.FIRST_TOKEN) % stream.tokens
            first_tokens[in_epoch] = (windows * self.pretrain.block_tokens + rotation) % stream.tokens
        return first_tokens
