"""Sums of gradients in fixed point: they do not depend on the order of the addends, nor on who adds them.

Floating-point addition is not associative, so the sum of a batch's gradients depends on how its parts are divided among
ranks. Integers have no such order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_ray.utils.activity import Phase, in_phase

# A number is a multiple of 2 ** -FRACTION_BITS, 5.7e-14, and a sum is less than 2 ** (63 - FRACTION_BITS), 524,288.
FRACTION_BITS = 44
_LIMIT = 2.0 ** (63 - FRACTION_BITS)


class FixedPointSum:
    """Sums of some tensors, such as gradients, in one buffer of int64.

    Args:
        shapes: of the tensors.
        device: of the tensors.
        addends: the maximum number of addends of all ranks, which limits the size of each.
    """

    def __init__(self, shapes: Sequence[torch.Size], device: torch.device, addends: int) -> None:
        sizes = [shape.numel() for shape in shapes]
        self._buffer = torch.zeros(sum(sizes) + 1, dtype=torch.int64, device=device)
        *parts, self._faults = self._buffer.split([*sizes, 1])
        self._sums = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._largest = _LIMIT / max(addends, 1)

    def add(self, index: int, addend: Tensor) -> None:
        """Add to the sum of a tensor. A number that is not finite, or too large, makes the result NaN."""
        scaled = addend.double()
        self._faults += (~(scaled.abs() < self._largest)).any()
        self._sums[index] += scaled.mul_(2.0**FRACTION_BITS).round_().long()

    def finish(self, like: Sequence[Tensor]) -> list[Tensor]:
        """Add the sums of all ranks and return them as floating-point tensors of given types. Collective.

        Args:
            like: tensors with the shapes and types of the results.
        """
        if dist.is_initialized() and dist.get_world_size() > 1:
            with in_phase(Phase.ALL_REDUCE):
                dist.all_reduce(self._buffer)
        sums = [one.double().mul_(2.0**-FRACTION_BITS).to(of.dtype) for one, of in zip(self._sums, like, strict=True)]
        if self._faults.item():
            sums = [one.fill_(torch.nan) for one in sums]
        return sums
