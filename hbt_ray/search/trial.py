"""One configuration trained and measured in this process, from wherever it was left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hbt_ray.alone import AloneCompany, Report
from hbt_ray.batches import build_batch
from hbt_ray.checkpoint import Checkpoints
from hbt_ray.config import RunConfig
from hbt_ray.experiment import RunFolder, training_plan, validation_batches
from hbt_ray.loop import Measured, train_to_the_end
from hbt_ray.measured import measurements, write_measurement
from hbt_ray.model import load_encoder
from hbt_ray.plan import HybridPlan
from hbt_ray.progress import Progress, is_finished
from hbt_ray.records import Batch
from hbt_ray.storage import Place
from hbt_ray.store import TokenStore
from hbt_ray.trainer import Trainer


def run_trial(
    config: RunConfig,
    store_folder: Path,
    initial_model: str,
    folder: RunFolder,
    every: int,
    measure: Callable[[Any], dict[str, float]],
    report: Report,
    device: str = "cpu",
    *,
    retell: bool = True,
) -> None:
    """Trains to the end, or to where `report` ends it, and measures every so many steps and at the end.

    Args:
        every: optimizer steps between measurements; a checkpoint is kept at each.
        measure: an encoder's metrics.
        report: takes the step and what was measured there.
        retell: report first what was measured before, so that whoever listens knows all of it.

    Raises:
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    store = TokenStore.open(store_folder)
    trainer = Trainer(
        load_encoder(config.model, config.text, initial_model, device=device), config.train, seed=config.seed
    )
    plan = training_plan(config, store.manifest)
    checkpoints = Checkpoints(folder.checkpoints)
    progress = checkpoints.load_newest(trainer)[0] or Progress()
    company = _TrialCompany(trainer, checkpoints, folder.measured, every, measure, report)
    known = measurements(folder.measured)
    for step, metrics in known:
        if retell and step <= progress.step:
            report(step, metrics)
    if progress.step and company.is_due(progress) and progress.step not in dict(known):
        company.measure(progress)
    batches = _batches(plan, store, config, progress.step)
    train_to_the_end(trainer, progress, batches, validation_batches(config, store), company)


def _batches(plan: HybridPlan, store: TokenStore, config: RunConfig, first_step: int) -> Iterator[Batch]:
    for number in itertools.count(first_step * config.train.gradient_accumulation):
        yield build_batch(plan.batch(number), store, chunk_pairs=config.train.chunk_pairs)


class _TrialCompany(AloneCompany):
    """Its checkpoints are measured as they are saved."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        measured: Place,
        every: int,
        measure: Callable[[Any], dict[str, float]],
        report: Report,
    ) -> None:
        super().__init__(trainer, checkpoints, report)
        self.encoder = trainer.encoder
        self.measured = measured
        self.every = every
        self._measure = measure
        self._losses: list[float] = []  # since the last measurement

    def is_due(self, progress: Progress) -> bool:
        return progress.step % self.every == 0 or is_finished(progress, self.trainer.train)

    def measure(self, progress: Progress) -> None:
        self.trainer.model.eval()
        metrics = self._measure(self.encoder)
        if self._losses:
            metrics["train/loss"] = sum(self._losses) / len(self._losses)
        self._losses = []
        write_measurement(self.measured, progress.step, metrics)
        self.report(progress.step, metrics)

    def tell(self, progress: Progress, measured: Measured) -> None:
        self._losses += [step["loss"] for step in measured.steps]

    def tell_skipped(self, progress: Progress) -> str:
        return f"the pairs of step {progress.step}; hbt plan shows them"

    def saved(self, progress: Progress) -> None:
        if self.is_due(progress):
            self.measure(progress)
