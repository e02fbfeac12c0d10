"""The gradient of a batch with the same bits on any number of ranks.

Three things depend on the number of ranks otherwise: the shapes of matrix products, the order in which gradients are
added, and the order of the loss's sums. Here chunks are encoded one by one, every rank computes the loss of the whole
batch, and gradients are added in fixed point.

Legend: B pairs on this rank, G of the global batch, K positives and N hard negatives of each, S translated queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbt_ray.losses.base import LossInputs, RankLayout, TeacherEmbeddings
from hbt_ray.losses.gather import all_gather_with_grad
from hbt_ray.models.dual_encoder import DualEncoder, MicroBatch, passage_rows, query_rows
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.fixed_point import FixedPointSum
from hbt_ray.training.row_gradient import RowGradient


class ReproducibleGradient:
    """Accumulates the gradient of a step in fixed point.

    Args:
        module: whose parameters are trained.
        rows: the gradient of word embeddings, if it is by rows.
        addends: the maximum number of micro-batches of a step, of all ranks.
    """

    def __init__(self, module: nn.Module, rows: RowGradient | None, addends: int) -> None:
        self._rows = rows
        self._parameters = [
            parameter
            for parameter in module.parameters()
            if parameter.requires_grad and (rows is None or parameter is not rows.weight)
        ]
        self._addends = addends
        self._sum: FixedPointSum | None = None
        self._tensors: list[Tensor] = []  # that are summed

    def add(self) -> None:
        """Add the gradients of a backward pass to the step's, and clear them."""
        gradients = [parameter.grad for parameter in self._parameters]
        of_rows = None if self._rows is None else self._rows.take()
        if self._sum is None:
            self._tensors = [*self._parameters, *([] if of_rows is None else [of_rows])]
            shapes = [tensor.shape for tensor in self._tensors]
            self._sum = FixedPointSum(shapes, self._tensors[0].device, self._addends)
        for index, gradient in enumerate([*gradients, *([] if of_rows is None else [of_rows])]):
            if gradient is not None:
                self._sum.add(index, gradient)
        for parameter in self._parameters:
            parameter.grad = None

    def finish(self) -> None:
        """Set the parameters' gradients to the sums over all ranks. Collective."""
        assert self._sum is not None
        sums = self._sum.finish(self._tensors)
        for parameter, gradient in zip(self._parameters, sums, strict=False):
            parameter.grad = gradient
        if self._rows is not None:
            self._rows.put(sums[-1])
        self._sum = None


def backward_reproducibly(
    dual: DualEncoder,
    batch: PairBatch,
    inputs_of: Callable[[Tensor, Tensor], LossInputs],
    loss_fn: Callable[[LossInputs], Tensor],
    gradient: ReproducibleGradient,
    *,
    layout: Sequence[int],
    caches: bool,
    weight: float = 1.0,
) -> Tensor:
    """Add the gradient of a global batch's weighted loss to a step's.

    1. Encode each micro-batch by itself.
    2. Gather the embeddings of all ranks, and compute the loss of the whole batch and its gradient by them.
    3. Back-propagate through each of this rank's micro-batches, and add its gradients.

    Args:
        dual: the encoder.
        batch: this rank's slice of the global batch.
        inputs_of: this rank's inputs of the loss, from its embeddings.
        loss_fn: the loss of a whole batch.
        gradient: of the step.
        layout: pairs of each rank.
        caches: encode micro-batches again for their gradient, rather than hold the activations of all.
        weight: factor of the loss.

    Returns:
        The loss of the global batch, the same on all ranks, without the weight.
    """
    micro_batches = dual.micro_batches(batch)
    # 1.
    with torch.set_grad_enabled(not caches):
        vectors = [dual(batch, [micro_batch]) for micro_batch in micro_batches]
    queries, passages = join_micro_batches(dual, batch, micro_batches, vectors)
    # 2.
    queries, passages = queries.detach().requires_grad_(), passages.detach().requires_grad_()
    loss = loss_fn(global_inputs(inputs_of(queries, passages), batch, layout))
    by_queries, by_passages = torch.autograd.grad(loss * weight, (queries, passages))
    # 3.
    for number, micro_batch in enumerate(micro_batches):
        both = dual(batch, [micro_batch]) if caches else vectors[number]
        indices = (torch.from_numpy(rows(batch, micro_batch)).to(loss.device) for rows in (query_rows, passage_rows))
        torch.autograd.backward(both, [of[index] for of, index in zip((by_queries, by_passages), indices, strict=True)])
        gradient.add()
    return loss.detach()


def join_micro_batches(
    dual: DualEncoder,
    batch: PairBatch,
    micro_batches: Sequence[MicroBatch],
    vectors: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Join the embeddings of micro-batches in the order of the batch: queries (B + S, D), passages (B * (K + N), D)."""
    joined = []
    for side, rows in enumerate((query_rows, passage_rows)):
        order = np.concatenate([rows(batch, micro_batch) for micro_batch in micro_batches])
        parts = torch.cat([both[side] for both in vectors])
        joined.append(parts[torch.from_numpy(np.argsort(order)).to(parts.device)])
    return joined[0], joined[1]


def global_inputs(local: LossInputs, batch: PairBatch, layout: Sequence[int]) -> LossInputs:
    """Gather the inputs of all ranks: those of the global batch in one process. Collective.

    The gradient of a rank's embeddings is that by its part of the gathered ones.

    Args:
        local: this rank's inputs.
        batch: this rank's slice.
        layout: pairs of each rank.
    """
    if len(layout) == 1:
        return replace(local, ranks=RankLayout.single_process(local.num_pairs))

    def gather_pairs(tensor: Tensor, of_pair: int = 1) -> Tensor:
        return _gather(tensor, [pairs * of_pair for pairs in layout])

    def gather_passages(tensor: Tensor) -> Tensor:
        positives, negatives = tensor.split([batch.num_pairs * batch.positives, batch.num_pairs * batch.num_negatives])
        return torch.cat([gather_pairs(positives, batch.positives), gather_pairs(negatives, batch.num_negatives)])

    translations, translation_of = local.translation_embeddings, local.translation_of
    if translations is not None and translation_of is not None:
        sizes = _gather_number(len(translation_of), layout, translation_of.device)
        translations = _gather(translations, sizes)
        translation_of = _gather(translation_of + batch.first_pair, sizes)
    teacher = local.teacher
    if teacher is not None:
        teacher = TeacherEmbeddings(gather_pairs(teacher.queries), gather_passages(teacher.passages))
    components = local.query_components, local.passage_components
    return replace(
        local,
        query_embeddings=gather_pairs(local.query_embeddings),
        passage_embeddings=gather_passages(local.passage_embeddings),
        query_ids=gather_pairs(local.query_ids),
        passage_ids=gather_passages(local.passage_ids),
        ranks=RankLayout.single_process(batch.global_pairs),
        translation_embeddings=translations,
        translation_of=translation_of,
        teacher=teacher,
        query_components=None if components[0] is None else gather_pairs(components[0]),
        passage_components=None if components[1] is None else gather_passages(components[1]),
    )


def _gather(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Gather the tensors of all ranks. The gradient of this rank's is its part of that of the result."""
    if not sum(sizes):
        return tensor
    gathered = all_gather_with_grad(tensor.detach(), sizes)
    if not tensor.requires_grad:
        return gathered
    parts = list(gathered.split(list(sizes)))
    parts[dist.get_rank()] = tensor
    return torch.cat(parts)


def _gather_number(number: int, layout: Sequence[int], device: torch.device) -> list[int]:
    gathered = [torch.zeros(1, dtype=torch.int64, device=device) for _ in layout]
    dist.all_gather(gathered, torch.tensor([number], device=device))
    return [int(one) for one in gathered]
