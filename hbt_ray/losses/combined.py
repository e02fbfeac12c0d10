"""The training loss: a weighted sum of the configured losses, at one or several widths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Self

import torch
from torch import Tensor, nn

from hbt_ray.config import LossConfig
from hbt_ray.losses import LOSSES
from hbt_ray.losses.base import Loss, LossInputs


class CombinedLoss(nn.Module):
    """Weighted sum of losses, computed at each width and averaged over widths.

    At a width below D, embeddings are truncated and normalized (Matryoshka; Kusupati et al. 2022, arXiv 2205.13147).

    Args:
        losses: the terms.
        matryoshka: widths, in addition to D.
    """

    def __init__(self, losses: Sequence[Loss], matryoshka: Sequence[int] = ()) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = [loss.weight for loss in losses]
        self.matryoshka = tuple(matryoshka)

    @classmethod
    def from_config(cls, config: LossConfig, temperature: float) -> Self:
        """Build the losses of LOSSES that are switched on, in its order.

        Args:
            config: the section `loss`.
            temperature: `train.temperature`.
        """
        losses = [loss.from_config(config, temperature) for loss in LOSSES.values()]
        return cls([loss for loss in losses if loss is not None], config.matryoshka)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Compute this rank's loss; the ranks' mean is the loss of the global batch. Collective."""
        widths = sorted({*self.matryoshka, inputs.width})
        return torch.stack([self._weighted_sum(inputs.truncated(width)) for width in widths]).mean()

    def _weighted_sum(self, inputs: LossInputs) -> Tensor:
        terms = (weight * loss(inputs) for weight, loss in zip(self.weights, self.losses, strict=True))
        return reduce(add, terms)  # not `torch.stack(...).sum()`: the order of additions is part of the result
