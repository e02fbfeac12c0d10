"""`BaseTrainer`: a model, its optimizer, and one optimizer step over one or several ranks. Uses no Ray."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.config import LoopConfig
from hbt_ray.training.lr_schedule import learning_rate
from hbt_ray.training.row_gradient import RowGradient
from hbt_ray.training.task import BatchT
from hbt_ray.utils.activity import Phase, in_phase
from hbt_ray.utils.process import keep_freed_memory

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, slots=True)
class StepSignals:
    """Flags that one rank raises after a step and all ranks act on."""

    request_checkpoint: bool = False
    check_preemption: bool = False


NO_SIGNALS = StepSignals()


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one optimizer step, the same on every rank."""

    loss: float  # mean over the global batch
    gradient_norm: float  # before clipping
    learning_rate: float
    skipped: bool = False  # the gradient was not finite; weights and moments are unchanged
    any_rank_signals: StepSignals = NO_SIGNALS  # each flag is True if any rank raised it


class BaseTrainer(ABC, Generic[BatchT]):
    """A model with its optimizer, on one process or on several with DDP.

    It draws no random numbers of its own and stores neither a schedule nor an order of batches: all of these are
    functions of the step. So its whole state is the weights, the optimizer's moments and the step.

    Args:
        module: computes the loss; its parameters with `requires_grad` are trained.
        checkpointed_module: the part of `module` whose weights are saved in checkpoints.
        train: settings of the training loop.
        device: of the module.
        rows: the gradient of word embeddings that are looked up row by row; None: they are like any other parameter.
    """

    encoder: SentenceTransformer  # set by subclasses

    def __init__(
        self,
        module: nn.Module,
        checkpointed_module: nn.Module,
        train: LoopConfig,
        device: torch.device,
        rows: RowGradient | None = None,
    ) -> None:
        self.train = train
        self.module = module
        self.checkpointed_module = checkpointed_module
        self.model: nn.Module = module  # or its DDP wrapper
        self._rows = rows
        if device.type == "cpu":
            keep_freed_memory()
        if num_ranks() > 1 and not self.sums_gradients:
            if rows is not None:
                names = [name for name, parameter in module.named_parameters() if parameter is rows.weight]
                DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
            # The encoders' buffers are constants, so they are not synchronised.
            ddp = DistributedDataParallel(
                module,
                device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,  # saves copying each gradient into a bucket and back
            )
            if rows is not None:
                rows.follow(ddp)
            self.model = ddp
        self.optimizer = torch.optim.AdamW(_parameter_groups(module, train.weight_decay), lr=0.0, fused=True)

    @property
    @abstractmethod
    def units(self) -> tuple[str, int]:
        """The unit in which speed is reported, "pairs" or "tokens", and their number in a global batch."""

    @abstractmethod
    def loss(self, batch: BatchT) -> Tensor:
        """Return this rank's loss on its slice of a global batch. The batch's loss is the mean over ranks."""

    @abstractmethod
    def backward(self, batch: BatchT, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        """Add the gradient of a batch's weighted loss to the parameters' gradients.

        Args:
            batch: this rank's slice of the global batch.
            weight: factor of the loss.
            synchronise: average gradients over ranks; otherwise a later call does, for this batch as well.

        Returns:
            This rank's loss, without the weight.
        """

    @property
    def sums_gradients(self) -> bool:
        """Whether the trainer sums gradients over ranks itself, in `finish_gradient`; otherwise DDP averages them."""
        return False

    def finish_gradient(self) -> None:
        """Sum the gradient of a step over ranks, if `sums_gradients`. Collective."""

    def token_ids(self, batches: Sequence[BatchT]) -> np.ndarray | None:
        """Return the token ids of all ranks' slices of some global batches, in any order; None: they are not known."""
        return None

    def step(self, step: int, batches: Sequence[BatchT], signals: StepSignals = NO_SIGNALS) -> StepResult:
        """Do one optimizer step.

        1. Accumulate the mean gradient of the batches; the last backward pass averages it over ranks.
        2. Clip the gradient's norm.
        3. Update the weights, unless the norm is not finite. All ranks have the same gradient, so they agree.
        4. Average the loss and the ranks' flags over ranks in one collective.

        Args:
            step: optimizer step, counted from 0; determines the learning rate.
            batches: this rank's slices of the step's batches.
            signals: flags of this rank.
        """
        rate = learning_rate(step, self.train)
        losses, clipped = self.gradient_of(batches)
        norm = nn.utils.clip_grad_norm_(clipped, self.train.max_gradient_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            if self._rows is not None:
                self._rows.fill()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._rows is not None:
            self._rows.end()
        flags = torch.tensor([signals.request_checkpoint, signals.check_preemption]).to(norm)
        mean_loss, *fractions = mean_over_ranks(torch.cat([torch.stack(losses).mean()[None], flags]))
        any_rank_signals = StepSignals(*(fraction > 0 for fraction in fractions))
        return StepResult(mean_loss, float(norm), rate, not finite, any_rank_signals)

    def gradient_of(self, batches: Sequence[BatchT]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the mean gradient of a step's batches, over them and over ranks.

        Returns:
            The loss of each batch, and the parameters, whose attribute `grad` has the gradient. Of a table of word
            embeddings whose gradient is by rows, the rows of the step.
        """
        self.model.train()
        if self._rows is not None:
            self._rows.begin(self.token_ids(batches))
        losses = []
        for index, batch in enumerate(batches):
            synchronise = index == len(batches) - 1
            losses.append(self.backward(batch, 1 / len(batches), synchronise))
        self.finish_gradient()
        parameters: list[Tensor] = list(self.model.parameters())
        return losses, parameters if self._rows is None else self._rows.clipped(self.model.parameters())

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[BatchT]) -> float:
        """Return the mean loss over batches and ranks, without dropout."""
        self.model.eval()
        losses = [self.loss(batch) for batch in batches]
        [mean] = mean_over_ranks(torch.stack(losses).mean()[None])
        return mean

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return AdamW's tensors by name: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
        return {
            f"{key}/{names[parameter]}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `optimizer_state` returned, after the weights were loaded."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for full_name, value in tensors.items():
            key, _, name = full_name.partition("/")
            by_name.setdefault(name, {})[key] = value
        state: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in self.module.named_parameters():
            if name in by_name:
                # Only the device is changed: moments have the parameter's type, but `step` is always float32.
                state[parameter] = {key: value.to(parameter.device) for key, value in by_name[name].items()}
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def maybe_no_sync(model: nn.Module, synchronise: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context in which DDP averages gradients over ranks only if `synchronise` is True."""
    if isinstance(model, DistributedDataParallel) and not synchronise:
        return model.no_sync()
    return contextlib.nullcontext()


def num_ranks() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(values: Tensor) -> list[float]:
    """Average a tensor (N,) over ranks; return N numbers. Collective."""
    if num_ranks() > 1:
        values = values.double()  # in which the mean of equal numbers is that number
        with in_phase(Phase.ALL_REDUCE):
            dist.all_reduce(values)
        values /= num_ranks()
    return values.tolist()


def freeze_unused(model: nn.Module, compute: Callable[[], Tensor]) -> None:
    """Freeze the parameters that do not take part in a computation, such as BERT's pooler.

    DDP would wait for their gradients.

    Args:
        model: whose parameters may be frozen.
        compute: returns a scalar computed with the model.
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        compute().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, list[nn.Parameter] | float]]:
    """Divide trained parameters into matrices, which decay, and biases and normalisation gains, which do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
