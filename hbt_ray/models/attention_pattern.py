"""Which tokens of a sequence attend to which, as transformers defines it for each layer of a model.

A model asks for the mask of each type of layer: all tokens, earlier tokens, or those in a window. transformers has a
function of the positions of a query and a key for each. For a packed row the function is kept, and evaluated for one
sequence instead of for the whole row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from hbt_ray.models.packing import Packing

# How many tokens a token attends to before itself and after itself; -1: all. As in FlashAttention.
Window = tuple[int, int]
ALL_TOKENS: Window = (-1, -1)
_TOKENS_TO_SEE_A_WINDOW = 64


class AttentionPattern:
    """Which tokens of a sequence attend to which. Results are kept, so a pattern serves one packed row.

    Args:
        attends: transformers' mask function: (text, head, query, key) -> bool, for broadcast tensors of rows.
        padded: computes the mask of torch's attention, if the batch turns out to be a rectangle.
    """

    def __init__(self, attends: Callable[..., Tensor], padded: Callable[[], Tensor | None]) -> None:
        self._attends = attends
        self.padded = padded
        self._longest: Tensor | None = None  # (L, L) bool of the longest sequence
        self._bands: dict[int, Tensor | None] = {}
        self._windows: list[Window | None] = []

    def band(self, packing: Packing, tokens: int) -> Tensor | None:
        """Return which of a sequence's first tokens attend to which, (tokens, tokens) bool; None if all to all."""
        if tokens not in self._bands:
            length = packing.example[1]
            if self._longest is None:
                self._longest = self._of_longest(packing, torch.arange(length, device=packing.device))
            # Groups are of rounded length: what follows the longest sequence is in none.
            missing = max(tokens - length, 0)
            band = self._longest[:tokens, :tokens]
            self._bands[tokens] = (
                None if band.all() else torch.nn.functional.pad(band, (0, missing, 0, missing), value=True)
            )
        return self._bands[tokens]

    def window(self, packing: Packing) -> Window | None:
        """Return the window that the pattern is, seen from some tokens of the longest sequence; None if it is none."""
        if not self._windows:
            last = packing.example[1] - 1
            some = np.linspace(0, last, min(last + 1, _TOKENS_TO_SEE_A_WINDOW)).astype(np.int64)
            queries = torch.from_numpy(some).to(packing.device)
            attended = self._of_longest(packing, queries)
            after, before = (attended[[0, -1]].sum(1) - 1).tolist()
            distance = torch.arange(last + 1, device=packing.device) - queries[:, None]
            is_window = torch.equal(attended, (distance <= after) & (distance >= -before))
            window = -1 if before == last else before, -1 if after == last else after
            self._windows.append(window if is_window else None)
        return self._windows[0]

    def _of_longest(self, packing: Packing, queries: Tensor) -> Tensor:
        """Return to which tokens some tokens of the longest sequence attend, (queries, L) bool."""
        start, length = packing.example
        keys = start + torch.arange(length, device=packing.device)
        attended = self._attends(0, 0, start + queries[:, None], keys[None])
        return attended.expand(len(queries), length)


def make_pattern(
    *, attention_mask: Tensor | None = None, mask_function: Callable[..., Tensor], **arguments: object
) -> Tensor | AttentionPattern | None:
    """Make the mask of a type of layer, with the signature that transformers expects.

    Returns:
        The mask of a padded batch. Without padding: the pattern, or None if all tokens attend to all.
    """

    def padded() -> Tensor | None:
        mask: Tensor | None = sdpa_mask(
            attention_mask=attention_mask,
            mask_function=mask_function,
            **arguments,  # type: ignore[arg-type]
        )
        return mask

    if attention_mask is not None:
        return padded()
    if mask_function is bidirectional_mask_function:
        return None
    return AttentionPattern(mask_function, padded)
