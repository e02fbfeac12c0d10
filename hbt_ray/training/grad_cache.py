"""Gradient caching: the gradient of a whole batch with the activations of one micro-batch at a time.

The loss contrasts each query with the passages of the whole batch, so the batch cannot be divided as in gradient
accumulation. But the encoder processes each text independently of the others, so its backward pass can be divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hbt_ray.models.dual_encoder import DualEncoder, passage_rows, query_rows
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.base_trainer import maybe_no_sync


def backward_with_gradient_cache(
    dual: DualEncoder,
    model: nn.Module,
    batch: PairBatch,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    weight: float = 1.0,
    synchronise: bool = True,
) -> Tensor:
    """Add the gradient of a batch's weighted loss to the parameters' gradients (Gao et al. 2021, arXiv 2101.06983).

    1. Encode all micro-batches without storing activations.
    2. Compute the loss from all embeddings, and its gradient with respect to each embedding: the gradient cache.
    3. Encode each micro-batch again, now with activations, and back-propagate the cached gradients of its embeddings.

    Dropout is a function of the seed, the step and the micro-batch's position in the global batch. So steps 1 and 3
    compute the same embeddings, and no state of a random generator has to be restored.

    Args:
        dual: the encoder of queries and passages.
        model: `dual`, or its DDP wrapper.
        batch: this rank's slice of the global batch.
        loss_fn: this rank's loss from query embeddings (Q, D) and passage embeddings (P, D).
        weight: factor of the loss.
        synchronise: average gradients over ranks; otherwise a later backward pass does, for this batch as well.

    Returns:
        This rank's loss, without the weight.
    """
    device = dual.encoder.device
    micro_batches = dual.micro_batches(batch)
    query_indices = [torch.from_numpy(query_rows(batch, micro_batch)).to(device) for micro_batch in micro_batches]
    passage_indices = [torch.from_numpy(passage_rows(batch, micro_batch)).to(device) for micro_batch in micro_batches]

    # 1. Not through `model`: DDP requires a backward pass for each of its forward passes.
    with torch.no_grad():
        embeddings = [dual(batch, [micro_batch]) for micro_batch in micro_batches]
    queries = _join([queries for queries, _ in embeddings], query_indices).requires_grad_()
    passages = _join([passages for _, passages in embeddings], passage_indices).requires_grad_()

    # 2.
    loss = loss_fn(queries, passages)
    query_gradient, passage_gradient = torch.autograd.grad(loss * weight, (queries, passages))

    # 3. Only the last backward pass averages over ranks.
    for micro_batch, of_queries, of_passages in zip(micro_batches, query_indices, passage_indices, strict=True):
        with maybe_no_sync(model, synchronise and micro_batch is micro_batches[-1]):
            vectors = model(batch, [micro_batch])
            torch.autograd.backward(vectors, (query_gradient[of_queries], passage_gradient[of_passages]))
    return loss.detach()


def _join(parts: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Join the embeddings of micro-batches into one tensor, each at its index in the batch."""
    concatenated = torch.cat(list(parts))
    joined = torch.empty_like(concatenated)
    joined[torch.cat(list(indices))] = concatenated
    return joined
