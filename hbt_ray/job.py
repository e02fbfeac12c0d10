"""What is trained, as those who carry it out need to know it: on a cluster, or in one process.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hbt_ray.batches import build_batch
from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.experiment import training_plan, validation_batches
from hbt_ray.plan import rank_slice
from hbt_ray.records import Batch, Blocks
from hbt_ray.storage import Place
from hbt_ray.store import TokenStore
from hbt_ray.trained import trained_encoder

if TYPE_CHECKING:
    from hbt_ray.stepper import Stepper

Measure = Callable[[Any, RunConfig], dict[str, float]]  # an encoder's metrics


class Job(Protocol):
    """A training to be carried out. It is pickled to whoever takes part."""

    @property
    def train(self) -> LoopConfig:
        """How it goes on."""

    @property
    def batch_type(self) -> type[Batch | Blocks]:
        """What its batches are."""

    def stepper(self, device: str) -> Stepper[Any]:
        """The model with its optimizer as they are before the first step. Raises ConfigError when there is none."""

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[Any]:
        """A rank's slices of these of the plan's batches, in order. Any process can build any rank's."""

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[Any]:
        """A rank's slices of the batches on which it is validated; none where it is not."""

    def made_of(self, store: TokenStore, number: int) -> str:
        """What stands in one of the plan's batches, in words."""

    def measure(self, store: TokenStore, checkpoints: Place, step: int, device: str) -> dict[str, float]:
        """The metrics of a step's checkpoint; those before training at step 0."""


def step_made_of(job: Job, store: TokenStore, step: int) -> str:
    """What stands in the batches of an optimizer step, in words."""
    each = job.train.gradient_accumulation
    return "; ".join(job.made_of(store, number) for number in range(step * each, (step + 1) * each))


@dataclass(frozen=True)
class TrainingJob:
    """Training on pairs."""

    config: RunConfig
    initial_model: str
    measure_encoder: Measure

    @property
    def train(self) -> LoopConfig:
        return self.config.train

    @property
    def batch_type(self) -> type[Batch]:
        return Batch

    def stepper(self, device: str) -> Stepper[Batch]:
        from hbt_ray.trainer import trainer_of

        return trainer_of(self.config, self.initial_model, device)

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[Batch]:
        plan = training_plan(self.config, store.manifest)
        mine = rank_slice(plan.global_batch_pairs, num_ranks, rank, self.config.train.chunk_pairs)
        return (build_batch(plan.batch(number, mine), store) for number in numbers)

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[Batch]:
        return validation_batches(self.config, store, rank, num_ranks)

    def made_of(self, store: TokenStore, number: int) -> str:
        spec = training_plan(self.config, store.manifest).batch(number)
        ids = store.item_ids(spec.source, spec.rows, spec.split)
        return f"{spec.kind} batch of {spec.source}, items {' '.join(ids)}"

    def measure(self, store: TokenStore, checkpoints: Place, step: int, device: str) -> dict[str, float]:
        encoder = trained_encoder(self.config, self.initial_model, checkpoints, step, device)
        return self.measure_encoder(encoder, self.config)
