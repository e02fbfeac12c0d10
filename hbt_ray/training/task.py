"""What is trained, as those who carry it out need to know it: on a cluster, or in one process.

Imported by Ray Train's controller as well, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import build_batch
from hbt_ray.sampling.factory import training_sampler, validation_batches
from hbt_ray.training.checkpoint_export import load_checkpointed_encoder
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hbt_ray.training.base_trainer import BaseTrainer

EvalFn = Callable[[Any, RunConfig], dict[str, float]]  # an encoder's metrics


class TrainingTask(Protocol):
    """A training to be carried out. It is pickled to whoever takes part."""

    @property
    def train(self) -> LoopConfig:
        """How it goes on."""

    @property
    def batch_type(self) -> type[DataclassInstance]:
        """What its batches are."""

    def build_trainer(self, device: str) -> BaseTrainer[Any]:
        """The model with its optimizer as they are before the first step. Raises ConfigError when there is none."""

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[Any]:
        """A rank's slices of these of the plan's batches, in order. Any process can build any rank's."""

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[Any]:
        """A rank's slices of the batches on which it is validated; none where it is not."""

    def describe_batch(self, store: TokenStore, number: int) -> str:
        """What stands in one of the plan's batches, in words."""

    def measure(self, store: TokenStore, checkpoints: StoragePath, step: int, device: str) -> dict[str, float]:
        """The metrics of a step's checkpoint; those before training at step 0."""


def describe_step(job: TrainingTask, store: TokenStore, step: int) -> str:
    """What stands in the batches of an optimizer step, in words."""
    each = job.train.gradient_accumulation
    return "; ".join(job.describe_batch(store, number) for number in range(step * each, (step + 1) * each))


@dataclass(frozen=True)
class ContrastiveTask:
    """Training on pairs."""

    config: RunConfig
    initial_model: str
    measure_encoder: EvalFn

    @property
    def train(self) -> LoopConfig:
        return self.config.train

    @property
    def batch_type(self) -> type[PairBatch]:
        return PairBatch

    def build_trainer(self, device: str) -> BaseTrainer[PairBatch]:
        from hbt_ray.training.contrastive_trainer import trainer_of

        return trainer_of(self.config, self.initial_model, device)

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[PairBatch]:
        sampler = training_sampler(self.config, store.manifest)
        specs = sampler.rank_batches(numbers, rank, num_ranks, self.config.train.chunk_pairs)
        return (build_batch(spec, store) for spec in specs)

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[PairBatch]:
        return validation_batches(self.config, store, rank, num_ranks)

    def describe_batch(self, store: TokenStore, number: int) -> str:
        spec = training_sampler(self.config, store.manifest).batch(number)
        ids = store.item_ids(spec.source, spec.rows, spec.split)
        return f"{spec.kind} batch of {spec.source}, items {' '.join(ids)}"

    def measure(self, store: TokenStore, checkpoints: StoragePath, step: int, device: str) -> dict[str, float]:
        encoder = load_checkpointed_encoder(self.config, self.initial_model, checkpoints, step, device)
        return self.measure_encoder(encoder, self.config)
