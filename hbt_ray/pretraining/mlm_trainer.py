"""The step of pretraining on masked tokens: a batch's loss and its gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_ray.config import PretrainConfig
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.masking import IGNORE_INDEX
from hbt_ray.pretraining.mlm_model import MaskedLanguageModel
from hbt_ray.training.base_trainer import BaseTrainer, freeze_unused, maybe_no_sync, num_ranks
from hbt_ray.utils.activity import Phase, in_phase


class MaskedLMTrainer(BaseTrainer[TokenBlockBatch]):
    """An encoder and its head, trained on blocks."""

    train: PretrainConfig

    def __init__(self, masked: MaskedLanguageModel, train: PretrainConfig) -> None:
        self.masked = masked
        self.encoder = masked.encoder
        ids = torch.zeros(8, dtype=torch.long).numpy()
        lengths = torch.tensor([8]).numpy()
        freeze_unused(masked, lambda: masked.scores(masked.token_states(ids, lengths, 1))[..., 0].sum())
        super().__init__(masked, masked, train, masked.encoder.device)

    @property
    def units(self) -> tuple[str, int]:
        return "tokens", self.train.global_batch_blocks * self.train.block_tokens

    def loss(self, batch: TokenBlockBatch) -> Tensor:
        parts = [self.model(batch, chunk) for chunk in self.masked.chunks(batch)]
        return torch.stack(parts).sum() * self._weight(batch)

    def backward(self, batch: TokenBlockBatch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        """One chunk's activations are held at a time: their losses add up."""
        chunks = self.masked.chunks(batch)
        scale = self._weight(batch)
        total = torch.zeros((), device=self.encoder.device)
        for chunk in chunks:
            with maybe_no_sync(self.model, synchronise and chunk is chunks[-1]):
                loss = self.model(batch, chunk) * scale
                (loss * weight).backward()
            total += loss.detach()
        return total

    def _weight(self, batch: TokenBlockBatch) -> float:
        """By what the sum over this rank's masked tokens is multiplied, so that the ranks' mean is that over all."""
        told = torch.tensor(float((batch.targets != IGNORE_INDEX).sum()), device=self.encoder.device)
        if num_ranks() > 1:
            with in_phase(Phase.ALL_REDUCE):
                dist.all_reduce(told)
        return num_ranks() / max(float(told), 1.0)
