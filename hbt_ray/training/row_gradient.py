"""The gradient of word embeddings, with the rows that the tokens of a step have.

A step has a few thousand of a vocabulary of 250,000 tokens, and the gradient of every other row is zero. So the
gradient is summed, averaged over ranks and clipped only for the rows of the step's tokens. These follow from the
sampler, so ranks exchange no indices. AdamW then updates the whole table, because moments move rows without a gradient
as well.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.config import TrainConfig
from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.vocabulary import SUMMED_TOGETHER, OccurringEmbedding, occurring_fault

MIN_ROWS_PER_TOKEN = 2  # of the table, for each token that a step can have; with fewer, `auto` keeps the whole gradient


class RowGradient:
    """The gradient of an embedding's weight: U rows of a step, E wide. DDP must ignore the weight.

    Args:
        table: whose look-up is the first operation of the forward pass. So its gradient is the last of the backward
            pass, and ranks start the exchange in the same order.
        bf16: exchange in bfloat16.
    """

    def __init__(self, table: nn.Embedding, *, bf16: bool = False) -> None:
        table.sparse = True  # autograd returns a row for each token
        self.table = table
        self.weight = table.weight
        self._ddp: weakref.ref[DistributedDataParallel] | None = None
        self._exchange_type = torch.bfloat16 if bf16 else table.weight.dtype
        self._rows: Tensor | None = None  # (U,) ascending; None: all
        self._gradient: Tensor | None = None  # (U, E)
        self._exchange: tuple[dist.Work, Tensor] | None = None
        self._whole: Tensor | None = None  # zero between steps
        self.weight.register_post_accumulate_grad_hook(self._collect)

    def follow(self, model: DistributedDataParallel) -> None:
        """Start the mean over ranks in the backward pass in which DDP does, which ends a step.

        The weight's hook must not keep DDP alive, as that would outlive the trainer in a cycle of references.
        """
        self._ddp = weakref.ref(model)

    def begin(self, ids: np.ndarray | None) -> None:
        """Begin a step with the token ids of its global batches, in any order; None: they are not known."""
        if ids is None:
            return
        rows = torch.from_numpy(np.unique(ids).astype(np.int64)).to(self.weight.device)
        if isinstance(self.table, OccurringEmbedding):
            rows = self.table.row_of_id[rows[rows < len(self.table.row_of_id)]].long()
        self._rows = rows[(rows >= 0) & (rows < len(self.weight))]

    def _collect(self, weight: Tensor) -> None:
        """Add the gradient of a backward pass to the step's. Start the mean over ranks after the last pass."""
        gradient = weight.grad
        assert gradient is not None
        if gradient.is_sparse:  # (tokens,) rows, and the gradient (tokens, E) of their embeddings
            rows, of_tokens = gradient._indices()[0], gradient._values()
            if self._rows is not None:
                positions = torch.searchsorted(self._rows, rows)
                if not torch.equal(self._rows[positions.clamp_max(len(self._rows) - 1)], rows):
                    raise AssertionError("a batch has a token that is not among the ids of the step")
                rows = positions
            count = len(weight) if self._rows is None else len(self._rows)
            # The function of the dense gradient, so the order of its sums is the same.
            gradient = torch.ops.aten.embedding_dense_backward(of_tokens, rows, count, -1, False)
        if self._rows is None:
            weight.grad = gradient
        else:
            weight.grad = None
            self._gradient = gradient if self._gradient is None else self._gradient.add_(gradient)
            gradient = self._gradient
        model = self._ddp() if self._ddp is not None else None
        if model is not None and model.require_backward_grad_sync:
            sent = gradient.div_(dist.get_world_size()).to(self._exchange_type)
            work = dist.all_reduce(sent, async_op=True)
            assert work is not None
            self._exchange = work, sent

    def take(self) -> Tensor | None:
        """Return the gradient of the backward passes since the last call: of the U rows, or of all; None: none."""
        if self._rows is None:
            gradient, self.weight.grad = self.weight.grad, None
        else:
            gradient, self._gradient = self._gradient, None
        return gradient

    def put(self, gradient: Tensor) -> None:
        """Set what `take` returns."""
        if self._rows is None:
            self.weight.grad = gradient
        else:
            self._gradient = gradient

    def clipped(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """Wait for the exchange. Return the parameters, with the U rows and their gradient in place of the weight."""
        if self._exchange is not None:
            work, received = self._exchange
            work.wait()
            self._exchange = None
            gradient = self.weight.grad if self._rows is None else self._gradient
            assert gradient is not None
            gradient.copy_(received)
        if self._gradient is None:
            return list(parameters)
        rows = self._gradient.detach()
        rows.grad = self._gradient
        return [rows if parameter is self.weight else parameter for parameter in parameters]

    def fill(self) -> None:
        """Give the weight its gradient for the optimizer: that of the U rows, and zero elsewhere."""
        if self._rows is not None and self._gradient is not None:
            if self._whole is None:
                self._whole = torch.zeros_like(self.weight)
            self.weight.grad = self._whole.index_copy_(0, self._rows, self._gradient)

    def end(self) -> None:
        """End a step. A backward pass outside of steps gives the weight the gradient of all rows."""
        if self._rows is not None and self._whole is not None:
            self._whole.index_fill_(0, self._rows, 0)
        self._rows = self._gradient = None


def open_row_gradient(encoder: SentenceTransformer, train: TrainConfig, ranks: int) -> RowGradient | None:
    """Return the gradient of an encoder's word embeddings by rows, or None if `train` says that it is of the table.

    `auto` is by rows if the table is large for the tokens of a step: with one rank on a CPU, where the gradient's norm
    has the same order of sums if a row is a whole number of vector registers, and with several ranks. With
    `reproducible` it is so with any number of ranks.

    Raises:
        ConfigError: `batch` is not possible with this encoder.
    """
    if train.embedding_gradient == "all":
        return None
    fault = occurring_fault(encoder, (nn.Embedding, OccurringEmbedding))
    if fault is None:
        table = transformer_of(encoder).get_input_embeddings()
        texts = 2 * train.global_batch_pairs * train.gradient_accumulation
        is_large = table.num_embeddings >= MIN_ROWS_PER_TOKEN * texts * (encoder.max_seq_length or 0)
        same_norm = encoder.device.type == "cpu" and table.embedding_dim % SUMMED_TOGETHER == 0
        if train.embedding_gradient == "batch" or (is_large and (ranks > 1 or train.reproducible or same_norm)):
            return RowGradient(table, bf16=train.embedding_exchange == "bf16")
    elif train.embedding_gradient == "batch":
        raise ConfigError(
            f"train.embedding_gradient=batch is not possible: {fault}; write train.embedding_gradient=all"
        )
    return None
