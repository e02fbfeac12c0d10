"""The trainer of masked language modelling: loss and gradient of a batch of blocks."""

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
    """Train an encoder and its head on blocks of masked tokens.

    The loss of a batch is the mean cross-entropy over the masked tokens of all ranks. Parameters that have no influence
    on it, such as BERT's pooler, are frozen.
    """

    train: PretrainConfig

    def __init__(self, mlm: MaskedLanguageModel, train: PretrainConfig) -> None:
        self.mlm = mlm
        self.encoder = mlm.encoder
        ids = torch.zeros(8, dtype=torch.long).numpy()
        lengths = torch.tensor([8]).numpy()
        freeze_unused(mlm, lambda: mlm.logits(mlm.token_states(ids, lengths, 1))[..., 0].sum())
        super().__init__(mlm, mlm, train, mlm.encoder.device)

    @property
    def units(self) -> tuple[str, int]:
        return "tokens", self.train.global_batch_blocks * self.train.block_tokens

    def loss(self, batch: TokenBlockBatch) -> Tensor:
        sums = [self.model(batch, mini_batch) for mini_batch in self.mlm.mini_batches(batch)]
        return torch.stack(sums).sum() * self._loss_weight(batch)

    def backward(self, batch: TokenBlockBatch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        """Accumulate the gradient of one mini-batch after another, so that only one holds its activations."""
        mini_batches = self.mlm.mini_batches(batch)
        loss_weight = self._loss_weight(batch)
        total = torch.zeros((), device=self.encoder.device)
        for mini_batch in mini_batches:
            with maybe_no_sync(self.model, synchronise and mini_batch is mini_batches[-1]):
                loss = self.model(batch, mini_batch) * loss_weight
                (loss * weight).backward()
            total += loss.detach()
        return total

    def _loss_weight(self, batch: TokenBlockBatch) -> float:
        """Return the factor of this rank's sum: num_ranks / masked tokens of all ranks.

        The mean over ranks is then the mean over the masked tokens of the global batch, although ranks have different
        numbers of them.
        """
        masked = torch.tensor(float((batch.targets != IGNORE_INDEX).sum()), device=self.encoder.device)
        if num_ranks() > 1:
            with in_phase(Phase.ALL_REDUCE):
                dist.all_reduce(masked)
        return num_ranks() / max(float(masked), 1.0)
