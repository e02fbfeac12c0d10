"""`TrainingTask`: how to build the trainer and the batches of a training, independent of the runner.

The runner is `local_runner` or `hbt_ray/cluster/training`. Ray Train's controller imports this module and waits for
it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from hbt_ray.config import LoopConfig, RunConfig
from hbt_ray.data.store_inputs import store_tokenizer
from hbt_ray.data.token_store import TokenStore
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.factory import training_batches, training_sampler, validation_batches
from hbt_ray.training.checkpoint import load_checkpointed_encoder
from hbt_ray.training.initial_model import write_untrained
from hbt_ray.utils.storage import StoragePath

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hbt_ray.training.base_trainer import BaseTrainer

EvalFn = Callable[["SentenceTransformer", RunConfig], dict[str, float]]  # computes an encoder's metrics
OnMetrics = Callable[[int, dict[str, float]], None]  # takes an optimizer step and its metrics


def ignore_metrics(step: int, metrics: dict[str, float]) -> None:
    """Do nothing: an `OnMetrics` for callers that need no metrics."""


class TrainBatch(Protocol):
    """A rank's slice of a global batch: a dataclass that has a batch number."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def step(self) -> int:
        """Number of the batch in the sampler's order; an optimizer step takes `gradient_accumulation` of them."""


BatchT = TypeVar("BatchT", bound=TrainBatch)


class TrainingTask(Protocol[BatchT]):
    """A training to run. It is pickled to the worker processes."""

    @property
    def train(self) -> LoopConfig:
        """Settings of the training loop."""

    @property
    def batch_type(self) -> type[BatchT]:
        """Type of the batches."""

    def make_initial_model(self, store: Path) -> None:
        """Write the encoder that the training starts from if it is an untrained one that does not exist yet."""

    def build_trainer(self, device: str, store: TokenStore | None = None) -> BaseTrainer[BatchT]:
        """Load the initial model and build the optimizer; the store has the texts to train on.

        Raises:
            ConfigError: the model cannot be loaded, or does not fit the settings.
        """

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[BatchT]:
        """Yield a rank's slices of these of the sampler's batches, in order. Any process can build any rank's."""

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[BatchT]:
        """Return a rank's slices of the validation batches; an empty list if there is no validation."""

    def describe_batch(self, store: TokenStore, number: int) -> str:
        """Describe a batch of the sampler for error messages: its kind, source and items."""

    def evaluate_checkpoint(
        self, store: TokenStore, checkpoints: StoragePath, step: int, device: str
    ) -> dict[str, float]:
        """Return the metrics of a step's checkpoint; at step 0 those of the initial model."""


def describe_step(task: TrainingTask[BatchT], store: TokenStore, step: int) -> str:
    """Describe the batches of one optimizer step for error messages."""
    per_step = task.train.gradient_accumulation
    return "; ".join(task.describe_batch(store, number) for number in range(step * per_step, (step + 1) * per_step))


@dataclass(frozen=True)
class ContrastiveTask:
    """Training on question-passage pairs."""

    config: RunConfig
    initial_model: str
    evaluate_encoder: EvalFn

    @property
    def train(self) -> LoopConfig:
        return self.config.train

    @property
    def batch_type(self) -> type[PairBatch]:
        return PairBatch

    def make_initial_model(self, store: Path) -> None:
        if self.config.model.path is None and not Path(self.initial_model).exists():
            write_untrained(self.config, store_tokenizer(store, self.config.prepare_inputs), Path(self.initial_model))

    def build_trainer(self, device: str, store: TokenStore | None = None) -> BaseTrainer[PairBatch]:
        from hbt_ray.training.contrastive_trainer import build_contrastive_trainer

        return build_contrastive_trainer(self.config, self.initial_model, device, store)

    def batches(self, store: TokenStore, numbers: range, rank: int = 0, num_ranks: int = 1) -> Iterator[PairBatch]:
        return training_batches(self.config, store, numbers, rank, num_ranks)

    def validation_batches(self, store: TokenStore, rank: int = 0, num_ranks: int = 1) -> list[PairBatch]:
        return validation_batches(self.config, store, rank, num_ranks)

    def describe_batch(self, store: TokenStore, number: int) -> str:
        spec = training_sampler(self.config, store.manifest).batch(number)
        ids = store.item_ids(spec.source, spec.rows, spec.split)
        return f"{spec.kind} batch of {spec.source}, items {' '.join(ids)}"

    def evaluate_checkpoint(
        self, store: TokenStore, checkpoints: StoragePath, step: int, device: str
    ) -> dict[str, float]:
        encoder = load_checkpointed_encoder(self.config, self.initial_model, checkpoints, step, device)
        return self.evaluate_encoder(encoder, self.config)
