"""What every training step has in common: a model, its optimizer, and what the ranks agree on. Knows no Ray."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.config import LoopConfig
from hbt_ray.utils.activity import Phase, in_phase
from hbt_ray.utils.process import keep_freed_memory


class Batch(Protocol):
    """A rank's slice of a global batch, of whatever content."""

    @property
    def step(self) -> int:
        """Index of the batch in the sampler's order."""


BatchT = TypeVar("BatchT", bound=Batch)


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
    skipped: bool = False  # the gradient was not finite, and neither weights nor moments moved
    any_rank_signals: StepSignals = NO_SIGNALS  # each flag: whether any rank raised it


def learning_rate(step: int, train: LoopConfig) -> float:
    """The rate of optimizer step `step`, counted from 0: a linear warm-up, then the schedule towards 0."""
    warmup_steps = round(train.warmup_share * train.steps)
    if step < warmup_steps:
        return train.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(train.steps - warmup_steps, 1)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[train.schedule]
    return train.learning_rate * factor


class BaseTrainer(ABC, Generic[BatchT]):
    """A model with its optimizer, on one process or many with DDP.

    It draws no random number of its own, keeps no schedule and no order: all are functions of the step. So
    weights, optimizer moments and the step are its whole state.

    Args:
        module: computes the loss; its parameters with `requires_grad` are trained.
        checkpointed_module: the part of `module` whose weights a checkpoint holds.
    """

    def __init__(
        self, module: nn.Module, checkpointed_module: nn.Module, train: LoopConfig, device: torch.device
    ) -> None:
        self.train = train
        self.module = module
        self.checkpointed_module = checkpointed_module
        self.model: nn.Module = module  # or its DDP wrapper
        if device.type == "cpu":
            keep_freed_memory()
        if num_ranks() > 1:
            # Buffers are not synchronised in forward: the encoders hold constants alone.
            self.model = DistributedDataParallel(
                module,
                device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,  # else each gradient is copied into a bucket and back
            )
        self.optimizer = torch.optim.AdamW(_parameter_groups(module, train.weight_decay), lr=0.0, fused=True)

    @property
    @abstractmethod
    def units(self) -> tuple[str, int]:
        """What speed is counted in, and how many of it a global batch has."""

    @abstractmethod
    def loss(self, batch: BatchT) -> Tensor:
        """This rank's loss on its slice of a global batch; the ranks' mean is the batch's."""

    @abstractmethod
    def backward(self, batch: BatchT, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        """Adds the gradient of a batch's weighted loss to the parameters', and returns this rank's loss.

        Args:
            synchronise: take the mean over ranks; otherwise a later call does, for this batch as well.
        """

    def step(self, step: int, batches: Sequence[BatchT], signals: StepSignals = NO_SIGNALS) -> StepResult:
        """One optimizer step on one batch, or on several whose gradients are averaged.

        A gradient that is not finite moves nothing. All ranks hold the same gradient, so they decide alike.

        Args:
            signals: flags of this rank. They are reduced together with the loss, in one collective.
        """
        self.model.train()
        rate = learning_rate(step, self.train)
        losses = []
        for index, batch in enumerate(batches):
            synchronise = index == len(batches) - 1
            losses.append(self.backward(batch, 1 / len(batches), synchronise))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.train.max_gradient_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        flags = torch.tensor([signals.request_checkpoint, signals.check_preemption]).to(norm)
        mean_loss, *fractions = mean_over_ranks(torch.cat([torch.stack(losses).mean()[None], flags]))
        any_rank_signals = StepSignals(*(fraction > 0 for fraction in fractions))
        return StepResult(mean_loss, float(norm), rate, not finite, any_rank_signals)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[BatchT]) -> float:
        """Mean loss over batches without dropout, over all ranks."""
        self.model.eval()
        losses = [self.loss(batch) for batch in batches]
        [mean] = mean_over_ranks(torch.stack(losses).mean()[None])
        return mean

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by parameter name: `exp_avg/<name>` and so on."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
        return {
            f"{key}/{names[parameter]}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `optimizer_state`, after the weights were loaded."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            by_name.setdefault(name, {})[kind] = value
        state: dict[Tensor, Any] = {}
        for name, parameter in self.module.named_parameters():
            if name in by_name:
                # AdamW keeps `step` in float32 beside the parameter, moments in the parameter's own type.
                state[parameter] = {kind: value.to(parameter.device) for kind, value in by_name[name].items()}
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def maybe_no_sync(model: nn.Module, synchronise: bool) -> Any:
    """A context in which DDP takes no mean over ranks, unless it shall."""
    if isinstance(model, DistributedDataParallel) and not synchronise:
        return model.no_sync()
    return contextlib.nullcontext()


def num_ranks() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(values: Tensor) -> list[float]:
    """The ranks' means of (N,) values."""
    if num_ranks() > 1:
        values = values.clone()
        with in_phase(Phase.ALL_REDUCE):
            dist.all_reduce(values)
        values /= num_ranks()
    return values.tolist()


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and normalisation gains do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def freeze_unused(model: nn.Module, use: Callable[[], Tensor]) -> None:
    """Freezes what takes no part in a number that `use` makes with the model, such as BERT's pooler.

    DDP waits for the gradient of every parameter that asks for one.
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        use().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
