"""Gather tensors of all ranks with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_ray.utils.activity import Phase, in_phase


def all_gather_with_grad(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """Concatenate the tensors of all ranks in rank order, with gradient. Collective, unless there is one size.

    1. Pad each rank's tensor with zeros to the largest size, because collectives require equal shapes.
    2. Gather the padded tensors.
    3. Remove the padding and concatenate.

    In backward, each rank receives the sum over all ranks' losses of the gradient by its local tensor. If each rank's
    loss is the mean over its queries, and DDP takes the mean over ranks, the parameters' gradient is that of the whole
    batch in one process. Without the gradient of the gathered tensors it would be another one.

    `torch.distributed.nn.functional.all_gather` is not used: it requires equal sizes on all ranks, which a batch that
    the ranks do not divide does not have.

    Args:
        local: (size of this rank, ...). Without a gradient if it is of integers.
        sizes: the size of each rank; a single one, this rank's, gathers nothing.

    Returns:
        (sum of sizes, ...)
    """
    if len(sizes) == 1:
        return local
    return _AllGather.apply(local, sizes) if local.is_floating_point() else _all_gather(local, sizes)


class _Context(Protocol):
    """The attributes of autograd's context that are used here."""

    sizes: Sequence[int]


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, local: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(local, sizes)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        with in_phase(Phase.ALL_REDUCE):
            dist.all_reduce(gradient)
        return gradient.split(ctx.sizes)[dist.get_rank()], None


def _all_gather(local: Tensor, sizes: Sequence[int]) -> Tensor:
    # 1. Pad
    missing = max(sizes) - len(local)
    padded = torch.cat([local, local.new_zeros(missing, *local.shape[1:])]) if missing else local.contiguous()
    # 2. Gather
    gathered = [torch.empty_like(padded) for _ in sizes]
    with in_phase(Phase.ALL_REDUCE):
        dist.all_gather(gathered, padded)
    # 3. Remove the padding
    return torch.cat([tensor[:size] for tensor, size in zip(gathered, sizes, strict=True)])
