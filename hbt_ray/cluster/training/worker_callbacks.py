"""What stands around the training loop on the cluster: who follows it, what it saves, and when it must."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, ValidationTaskConfig

from hbt_ray.config import LoopConfig
from hbt_ray.training.base_trainer import BaseTrainer
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.train_loop import LogBuffer
from hbt_ray.training.train_state import TrainState, should_evaluate, steps_to_evaluate

PATIENCE_S = 10.0  # with a driver that is slow to track: training is more important
LOOK_EVERY_S = 5.0  # for a notice that a node is about to be taken away


class RayTrainCallbacks:
    """`loop.TrainerCallbacks` of one rank. Rank 0 speaks and saves for all."""

    def __init__(
        self, trainer: BaseTrainer[Any], checkpoints: CheckpointManager, reports: Any, made_of: Callable[[int], str]
    ) -> None:
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.reports = reports
        self.made_of = made_of  # an optimizer step's batches, in words
        self.speaks = ray.train.get_context().get_world_rank() == 0
        self._saved_s = self._looked_s = time.monotonic()
        self._saved_for: Any = None  # the notice that was saved for
        self._to_evaluate: set[int] = set()  # steps whose checkpoints are being measured

    @property
    def _train(self) -> LoopConfig:
        return self.trainer.train

    def restore(self) -> TrainState:
        """Where the newest whole checkpoint left off, the same on all ranks; the beginning where there is none."""
        progress: TrainState | None = None
        if self.speaks:
            progress, faults = self.checkpoints.load_newest(self.trainer)
            for fault in faults:
                self._notice(fault)
            evaluated = ray.get(self.reports.get_evaluated.remote())
            self._to_evaluate = steps_to_evaluate(self.checkpoints.steps(), evaluated, self._train)
            if progress is not None:
                self._notice(f"going on from the checkpoint of step {progress.step} of {self._train.steps}")
        if dist.is_initialized() and dist.get_world_size() > 1:
            told = [progress]
            dist.broadcast_object_list(told, src=0)
            progress = told[0]
            if progress is not None and not self.speaks:
                self.checkpoints.load(progress.step, self.trainer)
        return progress or TrainState()

    def tell(self, progress: TrainState, measured: LogBuffer) -> None:
        if self.speaks and (measured.steps or measured.validation_loss is not None):
            self.reports.put.remote(
                {
                    "step": progress.step,
                    "steps": measured.steps,
                    "validation_loss": measured.validation_loss,
                    "best_validation_loss": progress.best_validation_loss,
                }
            )

    def tell_skipped(self, progress: TrainState) -> str:
        batches = self.made_of(progress.step)
        if self.speaks:
            self._notice(
                f"the gradient of step {progress.step} is not finite: skipped, {progress.steps_skipped} so far "
                f"({batches})"
            )
        return batches

    def wishes(self) -> tuple[bool, bool]:
        if not self.speaks:
            return False, False
        now_s, minutes = time.monotonic(), self._train.checkpoint_minutes
        looks = now_s - self._looked_s >= LOOK_EVERY_S
        if looks:
            self._looked_s = now_s
        return minutes is not None and now_s - self._saved_s >= 60 * minutes, looks

    def must_save(self, progress: TrainState) -> bool:
        notice = ray.train.get_preemption_info()
        if notice is None or notice == self._saved_for:
            return False
        self._saved_for = notice
        if self.speaks:
            self._notice(f"a node is about to be taken away: saving step {progress.step}")
        return True

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        if not self.speaks:
            ray.train.report({"step": progress.step})
            return
        self._wait_until_noted(progress)
        place = self.checkpoints.save(self.trainer, progress, metrics)
        validation: bool | ValidationTaskConfig = False
        if should_evaluate(progress, self._train):
            self._to_evaluate.add(progress.step)
            validation = ValidationTaskConfig(fn_kwargs={"step": progress.step})
        if self._to_evaluate:
            self._to_evaluate -= ray.get(self.reports.get_evaluated.remote())
        self.checkpoints.prune(self._train.checkpoints_kept, self._train.best_by, self._to_evaluate)
        self._saved_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            # Ray Train keeps no more than where it is: which one to go on from, and how many to keep, is for us.
            Path(folder, "place.txt").write_text(f"{place}\n", encoding="utf-8")
            ray.train.report(
                {"step": progress.step} | metrics,
                checkpoint=Checkpoint.from_directory(folder),
                validation=validation,
            )

    def _wait_until_noted(self, progress: TrainState) -> None:
        """Waits for the driver to track what was told: steps before a checkpoint are not done again to be measured."""
        number = ray.get(self.reports.put.remote({"saving": progress.step}))
        ray.get(self.reports.wait_noted.remote(number, PATIENCE_S))

    def _notice(self, text: str) -> None:
        self.reports.put.remote({"notice": text})
