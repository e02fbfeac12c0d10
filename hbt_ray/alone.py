"""A training in one process: who stands around its loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hbt_ray.checkpoint import Checkpoints
from hbt_ray.loop import Measured
from hbt_ray.progress import Progress
from hbt_ray.stepper import Stepper

Report = Callable[[int, dict[str, float]], None]  # takes the step and what was measured there


class AloneCompany:
    """`loop.Company` of one process, which keeps checkpoints and reports what is measured."""

    def __init__(self, trainer: Stepper[Any], checkpoints: Checkpoints, report: Report) -> None:
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.report = report

    def tell(self, progress: Progress, measured: Measured) -> None:
        for step in measured.steps:
            self.report(int(step["step"]), {f"train/{name}": step[name] for name in step if name != "step"})
        if measured.validation_loss is not None:
            self.report(progress.step, {"validation/loss": measured.validation_loss})

    def tell_skipped(self, progress: Progress) -> str:
        return f"the batch of step {progress.step}"

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
