"""A training in this process, from wherever it was left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_ray.checkpoint import Checkpoints
from hbt_ray.experiment import RunFolder
from hbt_ray.job import Job, TrainingJob, step_made_of
from hbt_ray.loop import Measured, train_to_the_end
from hbt_ray.measured import measurements, write_measurement
from hbt_ray.progress import Progress, is_finished
from hbt_ray.stepper import Stepper
from hbt_ray.storage import Place
from hbt_ray.store import TokenStore

if TYPE_CHECKING:
    from hbt_ray.trainer import Trainer

Report = Callable[[int, dict[str, float]], None]  # takes the step and what was measured there


def unheard(step: int, metrics: dict[str, float]) -> None:
    """The report of what nobody listens to."""


def train_alone(
    job: TrainingJob,
    store_folder: str | Path,
    folder: RunFolder,
    *,
    every: int | None = None,
    report: Report = unheard,
    device: str = "cpu",
    retell: bool = True,
) -> None:
    """Trains on pairs to the end, or to where `report` ends it, measuring as it goes.

    Args:
        every: optimizer steps between measurements, of which one is at the end too; a checkpoint must be due at each.
            None: nothing is measured.
        report: takes the step and what was measured there.
        retell: report first what was measured before, so that whoever listens knows all of it.

    Raises:
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    store = TokenStore.open(store_folder)
    trainer = job.stepper(device)
    checkpoints = Checkpoints(folder.checkpoints)
    progress = checkpoints.load_newest(trainer)[0] or Progress()
    company = _MeasuringCompany(job, store, trainer, checkpoints, report, measured=folder.measured, every=every)
    known = measurements(folder.measured)
    for step, metrics in known:
        if retell and step <= progress.step:
            report(step, metrics)
    if progress.step and company.is_due(progress) and progress.step not in dict(known):
        company.measure(progress)
    each = job.train.gradient_accumulation
    batches = job.batches(store, range(progress.step * each, job.train.steps * each))
    train_to_the_end(trainer, progress, batches, job.validation_batches(store), company)


class AloneCompany:
    """`loop.Company` of one process, which keeps checkpoints and reports what is measured."""

    def __init__(
        self, job: Job, store: TokenStore, trainer: Stepper[Any], checkpoints: Checkpoints, report: Report
    ) -> None:
        self.job = job
        self.store = store
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.report = report

    def tell(self, progress: Progress, measured: Measured) -> None:
        for step in measured.steps:
            self.report(int(step["step"]), {f"train/{name}": step[name] for name in step if name != "step"})
        if measured.validation_loss is not None:
            self.report(progress.step, {"validation/loss": measured.validation_loss})

    def tell_skipped(self, progress: Progress) -> str:
        return step_made_of(self.job, self.store, progress.step)

    def wishes(self) -> tuple[bool, bool]:
        return False, False

    def must_save(self, progress: Progress) -> bool:
        return False

    def save(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.checkpoints.save(self.trainer, progress, metrics)
        self.saved(progress)
        self.checkpoints.prune(self.trainer.train.checkpoints_kept, self.trainer.train.best_by)

    def saved(self, progress: Progress) -> None:
        """What is done with a checkpoint before others are deleted."""


class _MeasuringCompany(AloneCompany):
    """Measures a training on pairs as its checkpoints are saved, and reports that alone."""

    job: TrainingJob
    trainer: Trainer

    def __init__(self, *around: Any, measured: Place, every: int | None) -> None:
        super().__init__(*around)
        self.measured = measured
        self.every = every
        self._losses: list[float] = []  # since the last measurement

    def is_due(self, progress: Progress) -> bool:
        if self.every is None:
            return False
        return progress.step % self.every == 0 or is_finished(progress, self.job.train)

    def measure(self, progress: Progress) -> None:
        metrics = self.job.measure_encoder(self.trainer.encoder, self.job.config)
        if self._losses:
            metrics["train/loss"] = sum(self._losses) / len(self._losses)
        self._losses = []
        write_measurement(self.measured, progress.step, metrics)
        self.report(progress.step, metrics)

    def tell(self, progress: Progress, measured: Measured) -> None:
        self._losses += [step["loss"] for step in measured.steps]

    def saved(self, progress: Progress) -> None:
        if self.is_due(progress):
            self.measure(progress)
