"""Dropout whose masks are a function of a key and of the layer, independent of earlier random draws.

On a CPU masks come from a counter-based stream, 16 bits an element, which is several times as fast as torch's
generator. On other devices torch's kernels draw them, from a generator that is seeded with the key.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hbt_ray.utils.counter_rng import stable_hash64

_LEVELS = 2**16  # probabilities are rounded to multiples of 1 / _LEVELS


class DropoutKey:
    """The key of all dropout layers of an encoder, until it is set again."""

    def __init__(self) -> None:
        self._parts: tuple[int | str, ...] = ()
        self._calls: Counter[int] = Counter()  # of each repeated layer, with this key

    def set(self, device: torch.device, *parts: int | str) -> None:
        """Make all following masks a function of `parts` (see `stable_hash64`) and of the layer.

        Side effect: this seeds the device's default generator, for layers that draw from it. Other code in the process
        that uses that generator becomes a function of the key as well.
        """
        self._parts = parts
        self._calls.clear()
        # Not `torch.manual_seed`: it seeds the generators of every other type of device too, and keeps a formatted
        # stack for each that is not initialized: milliseconds a call, and memory that is never freed.
        cuda = device.type == "cuda"
        generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
        generator.manual_seed(stable_hash64(*parts) % 2**63)

    def bits(self, place: int, number: int, *, repeated: bool = False) -> Tensor:
        """Return (number,) int16 random bits of a layer, uniform over all values; of a repeated one for this call."""
        call = self._calls[place] if repeated else 0
        self._calls[place] += repeated
        parts = (*self._parts, place, call) if call else (*self._parts, place)
        words = np.random.SFC64(stable_hash64(*parts)).random_raw(-(-number // 4))
        return torch.from_numpy(words).view(torch.int16)[:number]


class DeterministicDropout(nn.Dropout):
    """`nn.Dropout` whose mask is a function of the key and the layer.

    Args:
        p: probability that an element is dropped.
        key: shared by all layers of an encoder.
        place: index of the layer in the encoder.
        repeated: the forward pass calls the layer several times, and each call has another mask.
    """

    def __init__(self, p: float, key: DropoutKey, place: int, *, repeated: bool = False) -> None:
        super().__init__(p)
        self.key = key
        self.place = place
        self.repeated = repeated

    def mask(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return a mask of zeros and ones on the CPU, and the factor by which the kept elements are scaled."""
        dropped = min(round(self.p * _LEVELS), _LEVELS - 1)
        bits = self.key.bits(self.place, int(np.prod(shape)), repeated=self.repeated).view(shape)
        kept = torch.empty(shape, dtype=dtype)
        torch.ge(bits, dropped - _LEVELS // 2, out=kept)
        return kept, _LEVELS / (_LEVELS - dropped)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        dropped: Tensor = _MaskAndScale.apply(values, *self.mask(tuple(values.shape), values.dtype))
        return dropped


class _Context(Protocol):
    """The attributes of autograd's context that are used here."""

    saved_tensors: tuple[Tensor, ...]
    scale: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _MaskAndScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, values: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (values * kept).mul_(scale)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None, None


def key_dropout(encoder: nn.Module) -> DropoutKey:
    """Replace every `nn.Dropout` of an encoder by `DeterministicDropout`; return the key that all of them share.

    Attention layers that keep a probability for their weights, and no layer of dropout, get one.
    """
    key = DropoutKey()
    place = 0
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                # ALBERT's layers share their weights, and so their modules.
                repeated = hasattr(getattr(module, "config", None), "num_hidden_groups")
                layer = DeterministicDropout(child.p, key, place, repeated=repeated)
                setattr(module, name, layer.train(child.training))
                place += 1
    for module in list(encoder.modules()):
        if keeps_probability(module):
            layer = DeterministicDropout(float(vars(module)["attention_dropout"]), key, place)
            module.weights_dropout = layer.train(module.training)
            place += 1
    return key


def keeps_probability(module: nn.Module) -> bool:
    """Return True if a module is attention that drops weights by a probability instead of a layer of dropout."""
    return isinstance(vars(module).get("attention_dropout"), int | float)


def drops_nothing(encoder: nn.Module) -> bool:
    """Return True if all layers of dropout of an encoder, and all kept probabilities, are 0."""
    modules = list(encoder.modules())
    layers = any(module.p > 0 for module in modules if isinstance(module, nn.Dropout))
    return not layers and not any(vars(module)["attention_dropout"] for module in modules if keeps_probability(module))


def attention_dropout(module: nn.Module) -> nn.Dropout:
    """Return the layer that drops the attention weights of an attention layer."""
    names = "weights_dropout", "dropout", "attention_dropout"
    layer = next((of for of in (getattr(module, name, None) for name in names) if isinstance(of, nn.Dropout)), None)
    assert isinstance(layer, nn.Dropout), "call key_dropout before training"
    return layer
