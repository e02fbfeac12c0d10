"""Dropout whose masks follow from a key and their place in the model, whatever was drawn before.

On a CPU they are also far cheaper to draw than torch's, which draws them one after the other: 16 bits of a counter's
stream say of each element whether it stays. Elsewhere torch's own kernels draw, from a generator with the same key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hbt_ray.utils.counter_rng import stable_hash64

_STEPS = 2**16  # so fine can a probability be


class DropoutKey:
    """The key that an encoder's masks are drawn with, until it is set anew."""

    def __init__(self) -> None:
        self._parts: tuple[Any, ...] = ()

    def set(self, device: torch.device, *parts: Any) -> None:
        """Draws from now on are a function of `parts` (see `stable_hash64`), and of their place in the model."""
        self._parts = parts
        # Never `torch.manual_seed`: it seeds those of every other kind of device as well, and keeps a formatted stack
        # for each that has not been started: milliseconds a call, and memory for ever.
        cuda = device.type == "cuda"
        generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
        generator.manual_seed(stable_hash64(*parts) % 2**63)

    def bits(self, place: int, number: int) -> Tensor:
        """(number,) int16, uniform over all its values."""
        words = np.random.SFC64(stable_hash64(*self._parts, place)).random_raw(-(-number // 4))
        return torch.from_numpy(words).view(torch.int16)[:number]


class DeterministicDropout(nn.Dropout):
    """`nn.Dropout` whose mask is a function of the key and of `place`, which no other layer of the encoder has."""

    def __init__(self, p: float, key: DropoutKey, place: int) -> None:
        super().__init__(p)
        self.key = key
        self.place = place

    def mask(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, float]:
        """Zeros and ones of a shape, on the CPU, and by what those that stay are to be multiplied."""
        dropped = min(round(self.p * _STEPS), _STEPS - 1)
        bits = self.key.bits(self.place, int(np.prod(shape))).view(shape)
        kept = torch.empty(shape, dtype=dtype)
        torch.ge(bits, dropped - _STEPS // 2, out=kept)
        return kept, _STEPS / (_STEPS - dropped)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        return _Dropped.apply(values, *self.mask(tuple(values.shape), values.dtype))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (values * kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None, None


def key_dropout(encoder: nn.Module) -> DropoutKey:
    """Replace every `nn.Dropout` of an encoder by `DeterministicDropout`; return the key that all of them share."""
    key = DropoutKey()
    place = 0
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, DeterministicDropout(child.p, key, place).train(child.training))
                place += 1
    return key
