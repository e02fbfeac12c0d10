"""A batch of blocks of running text with masked tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TokenBlockBatch:
    """The blocks of one global batch that one rank is pretrained on: texts without padding, some tokens masked.

    Legend: B blocks on this rank, T tokens of each.
    """

    step: int  # the batch's number in the sampler's order
    first_block: int  # index of the first of the B blocks in the global batch
    global_blocks: int
    ids: np.ndarray  # (B * T,) int32, the masked input of the encoder
    targets: np.ndarray  # (B * T,) int32: the original token where it is to be predicted, -1 elsewhere
    lengths: np.ndarray  # (texts,) int32: the texts are concatenated, and none extends beyond the end of its block
    texts_per_block: np.ndarray  # (B,) int32

    @property
    def num_blocks(self) -> int:
        """B."""
        return len(self.texts_per_block)

    @property
    def block_tokens(self) -> int:
        """T."""
        return len(self.ids) // self.num_blocks
