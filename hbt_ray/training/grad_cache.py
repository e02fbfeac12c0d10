"""Gradient caching: the gradient of a whole batch with the activations of one micro-batch at a time.

The loss contrasts each query with the passages of the whole batch, so the batch cannot be divided as in gradient
accumulation. But the encoder processes each text independently of the others, so its backward pass can be divided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence

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
    kept_bytes: int = 0,
) -> Tensor:
    """Add the gradient of a batch's weighted loss to the parameters' gradients (Gao et al. 2021, arXiv 2101.06983).

    1. Encode all micro-batches. Keep the activations of the first ones, as many as fit in `kept_bytes`.
    2. Compute the loss from all embeddings, and its gradient with respect to each embedding: the gradient cache.
    3. Encode each other micro-batch again, now with activations. Back-propagate the cached gradients of all embeddings.

    The gradient is the same for any `kept_bytes`, bit for bit: micro-batches are back-propagated in the same order.
    Dropout is a function of the seed, the step and the micro-batch's position in the global batch. So steps 1 and 3
    compute the same embeddings, and no state of a random generator has to be restored.

    Args:
        dual: the encoder of queries and passages.
        model: `dual`, or its DDP wrapper.
        batch: this rank's slice of the global batch.
        loss_fn: this rank's loss from query embeddings (Q, D) and passage embeddings (P, D).
        weight: factor of the loss.
        synchronise: average gradients over ranks; otherwise a later backward pass does, for this batch as well.
        kept_bytes: of the tensors that autograd saves, without parameters. If the first micro-batch has more, its
            activations are dropped, as those of all.

    Returns:
        This rank's loss, without the weight.
    """
    device = dual.encoder.device
    micro_batches = dual.micro_batches(batch)
    query_indices = [torch.from_numpy(query_rows(batch, micro_batch)).to(device) for micro_batch in micro_batches]
    passage_indices = [torch.from_numpy(passage_rows(batch, micro_batch)).to(device) for micro_batch in micro_batches]

    # 1. Not through `model`: DDP requires a backward pass for each of its forward passes. The last one, in which it
    # averages, is encoded again.
    averages = synchronise and model is not dual
    parameters = {parameter.untyped_storage().data_ptr() for parameter in dual.parameters()}
    kept: list[tuple[Tensor, Tensor] | None] = []
    embeddings: list[tuple[Tensor, Tensor]] = []
    largest, left = 1, kept_bytes
    for micro_batch in micro_batches:
        may_keep = largest <= left and not (averages and micro_batch is micro_batches[-1])
        with torch.set_grad_enabled(may_keep), count_saved_bytes(parameters) as saved:
            vectors = dual(batch, [micro_batch])
        size = sum(saved.values())
        largest, left = max(largest, size), left - size
        kept.append(vectors if may_keep and left >= 0 else None)
        embeddings.append((vectors[0].detach(), vectors[1].detach()))
        del vectors
    queries = _join([queries for queries, _ in embeddings], query_indices).requires_grad_()
    passages = _join([passages for _, passages in embeddings], passage_indices).requires_grad_()

    # 2.
    loss = loss_fn(queries, passages)
    query_gradient, passage_gradient = torch.autograd.grad(loss * weight, (queries, passages))

    # 3. Only the last backward pass averages over ranks.
    for number, micro_batch in enumerate(micro_batches):
        with maybe_no_sync(model, synchronise and micro_batch is micro_batches[-1]):
            vectors, kept[number] = kept[number] or model(batch, [micro_batch]), None
            of_queries, of_passages = query_indices[number], passage_indices[number]
            torch.autograd.backward(vectors, (query_gradient[of_queries], passage_gradient[of_passages]))
    return loss.detach()


@contextlib.contextmanager
def count_saved_bytes(excluded: Container[int]) -> Iterator[dict[int, int]]:
    """Collect the sizes of the tensors that autograd saves for the backward pass within the block.

    They are a function of shapes, so that the same micro-batches are kept whenever a step is repeated.

    Args:
        excluded: addresses of storages that do not count, such as those of parameters.

    Yields:
        Address to bytes of each storage.
    """
    sizes: dict[int, int] = {}
    held: list[torch.UntypedStorage] = []  # within the block, so that no other storage gets the address of a freed one

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor.detach()  # an output refers to its own node, and a node that holds it would never be freed

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        yield sizes


def _join(parts: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Join the embeddings of micro-batches into one tensor, each at its index in the batch."""
    concatenated = torch.cat(list(parts))
    joined = torch.empty_like(concatenated)
    joined[torch.cat(list(indices))] = concatenated
    return joined
