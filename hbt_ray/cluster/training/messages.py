"""What the driver, the workers and Ray Train's controller of one training send each other.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_ray.training.task import TrainingTask
from hbt_ray.utils.activity import Phase
from hbt_ray.utils.start_up import StageEnd
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What every rank, and every task that evaluates a checkpoint, is started with."""

    task: TrainingTask[Any]
    store: Path
    checkpoints: StoragePath
    checkpoint_metrics: StoragePath
    channel: ActorHandle  # handle of the `MetricsChannel` actor


@dataclass(frozen=True, slots=True)
class StepMetricsMessage:
    """Metrics of the optimizer steps since the last message: "step", "loss", "gradient_norm", ..."""

    steps: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class ValidationLoss:
    """The validation after a step."""

    step: int
    loss: float
    best_loss: float | None


@dataclass(frozen=True, slots=True)
class CheckpointMetrics:
    """An evaluated checkpoint's metrics."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Saving:
    """Rank 0 waits to save this step until the driver has logged all messages before this one."""

    step: int


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the user: a restart, a skipped step, a resumed checkpoint."""

    text: str


@dataclass(frozen=True, slots=True)
class Stacks:
    """The Python stacks of a rank's threads, after a step took longer than `step_timeout_s`."""

    rank: int
    step: int
    text: str


@dataclass(frozen=True, slots=True)
class StartUp:
    """The stages of rank 0 up to its first steps."""

    ends: list[StageEnd]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a rank is doing. Only the latest of each rank is kept, so it is no `Message`."""

    rank: int
    step: int  # the optimizer step that is being computed, counted from 1; 0 before the first
    phase: Phase
    step_s: float  # seconds since the step began


Message = StepMetricsMessage | ValidationLoss | CheckpointMetrics | Saving | Notice | Stacks | StartUp
