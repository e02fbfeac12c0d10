"""Ray Train's side of the training loop: metrics to the driver, checkpoints, preemption notices."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train import Checkpoint, ValidationTaskConfig

from hbt_ray.cluster.runtime import get_within
from hbt_ray.cluster.training.async_evaluation import EVALUATION_TIMEOUT_S
from hbt_ray.cluster.training.messages import Message, Notice, Saving, StartUp, StepMetricsMessage, ValidationLoss
from hbt_ray.config import LoopConfig
from hbt_ray.training.base_trainer import NO_SIGNALS, BaseTrainer, StepSignals
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.task import BatchT
from hbt_ray.training.train_loop import LogBuffer
from hbt_ray.training.train_state import TrainState, should_evaluate, steps_to_evaluate
from hbt_ray.utils.activity import Phase, enter_phase, in_phase
from hbt_ray.utils.start_up import end_of, take_ends
from hbt_ray.utils.storage import StoragePath

LOGGING_WAIT_S = 10.0  # for a driver that is slow to log; after that training has priority
PREEMPTION_CHECK_S = 5.0

logger = logging.getLogger(__name__)


class RayTrainCallbacks:
    """`train_loop.TrainerCallbacks` of one rank. Only rank 0 reports and saves.

    Args:
        channel: handle of the `MetricsChannel` actor.
        describe_step: describes the batches of an optimizer step.
    """

    def __init__(
        self,
        trainer: BaseTrainer[BatchT],
        checkpoints: CheckpointManager,
        channel: ActorHandle,
        describe_step: Callable[[int], str],
    ) -> None:
        self.trainer = trainer
        self.checkpoints = checkpoints
        self.channel = channel
        self.describe_step = describe_step
        self.is_rank_zero = ray.train.get_context().get_world_rank() == 0
        self._saved_s = self._checked_s = time.monotonic()
        self._handled_notice: object = None  # the preemption notice for which a checkpoint was saved
        self._has_stepped = False
        self._to_evaluate: set[int] = set()  # steps whose checkpoints are being evaluated

    @property
    def _train(self) -> LoopConfig:
        return self.trainer.train

    def restore(self) -> TrainState:
        """Load the newest complete checkpoint, the same on all ranks; return its state, or that of a new training.

        Collective: rank 0 chooses the checkpoint and broadcasts its state.
        """
        enter_phase(Phase.RESTORE)
        state: TrainState | None = None
        if self.is_rank_zero:
            state, faults = self.checkpoints.load_newest(self.trainer)
            self._send(*map(Notice, faults))
            evaluated = self._get(self.channel.get_evaluated.remote())
            self._to_evaluate = steps_to_evaluate(self.checkpoints.steps(), evaluated, self._train)
            if state is not None:
                self._send(Notice(f"resuming from the checkpoint of step {state.step} of {self._train.steps}"))
        if dist.is_initialized() and dist.get_world_size() > 1:
            broadcast = [state]
            dist.broadcast_object_list(broadcast, src=0)
            state = broadcast[0]
            if state is not None and not self.is_rank_zero:
                self.checkpoints.load(state.step, self.trainer)
        return state or TrainState()

    def log(self, progress: TrainState, metrics: LogBuffer) -> None:
        """Send the metrics since the last call to the driver."""
        messages: list[Message] = []
        if not self._has_stepped:
            self._has_stepped = True
            end_of("first steps")
            messages.append(StartUp(take_ends()))
        if metrics.steps:
            messages.append(StepMetricsMessage([{"step": step.step} | step.by_name() for step in metrics.steps]))
        if metrics.validation_loss is not None:
            messages.append(ValidationLoss(progress.step, metrics.validation_loss, progress.best_validation_loss))
        if self.is_rank_zero:
            self._send(*messages)

    def log_skipped_step(self, progress: TrainState) -> str:
        """Report a step whose gradient was not finite; return a description of its batches."""
        batches = self.describe_step(progress.step)
        if self.is_rank_zero:
            self._send(
                Notice(
                    f"the gradient of step {progress.step} is not finite: skipped, {progress.steps_skipped} so far "
                    f"({batches})"
                )
            )
        return batches

    def signals(self) -> StepSignals:
        """Return this rank's flags, which are combined over ranks with the loss."""
        if not self.is_rank_zero:
            return NO_SIGNALS
        if not self._has_stepped:
            end_of("first batch")
        now_s, minutes = time.monotonic(), self._train.checkpoint_minutes
        check_preemption = now_s - self._checked_s >= PREEMPTION_CHECK_S
        if check_preemption:
            self._checked_s = now_s
        request_checkpoint = minutes is not None and now_s - self._saved_s >= 60 * minutes
        return StepSignals(request_checkpoint, check_preemption)

    def must_save(self, progress: TrainState) -> bool:
        """Return whether a node is about to be preempted and no checkpoint was saved since the notice."""
        notice = ray.train.get_preemption_info()
        if notice is None or notice == self._handled_notice:
            return False
        self._handled_notice = notice
        if self.is_rank_zero:
            self._send(Notice(f"a node is about to be preempted: saving step {progress.step}"))
        return True

    def save(self, progress: TrainState, metrics: dict[str, float]) -> None:
        """Save a checkpoint with its metrics, delete old ones, and start its evaluation if one is due.

        Collective: `ray.train.report` returns when all ranks have called it.
        """
        if not self.is_rank_zero:
            with in_phase(Phase.REPORT):
                ray.train.report({"step": progress.step})
            return
        with in_phase(Phase.SAVE):
            path, validation = self._write_checkpoint(progress, metrics)
        with in_phase(Phase.REPORT), tempfile.TemporaryDirectory() as folder:
            # Ray Train stores only the path: `CheckpointManager` decides which to resume from and how many to keep.
            Path(folder, "place.txt").write_text(f"{path}\n", encoding="utf-8")
            ray.train.report(
                {"step": progress.step} | metrics,
                checkpoint=Checkpoint.from_directory(folder),
                validation=validation,
            )

    def _write_checkpoint(
        self, progress: TrainState, metrics: dict[str, float]
    ) -> tuple[StoragePath, bool | ValidationTaskConfig]:
        """Write a checkpoint and delete old ones; return its path, and its evaluation if one is due."""
        self._wait_until_logged(progress)
        path = self.checkpoints.save(self.trainer, progress, metrics)
        validation: bool | ValidationTaskConfig = False
        if should_evaluate(progress, self._train):
            self._to_evaluate.add(progress.step)
            validation = ValidationTaskConfig(fn_kwargs={"step": progress.step}, timeout_s=EVALUATION_TIMEOUT_S)
        if self._to_evaluate:
            self._to_evaluate -= self._get(self.channel.get_evaluated.remote())
        self.checkpoints.prune(self._train.checkpoints_kept, self._train.best_by, self._to_evaluate)
        self._saved_s = time.monotonic()
        logger.info("saved the checkpoint of step %d", progress.step)
        return path, validation

    def _wait_until_logged(self, progress: TrainState) -> None:
        """Wait until the driver has logged the metrics up to this step, at most `LOGGING_WAIT_S` seconds.

        Steps before a checkpoint are not repeated, so metrics that a kill loses before they are logged stay lost.
        """
        number = self._get(self.channel.put.remote(Saving(progress.step)))
        self._get(self.channel.wait_acknowledged.remote(number, LOGGING_WAIT_S))

    def _get(self, reference: ray.ObjectRef) -> Any:
        """Return a reply of the metrics channel. Raises TimeoutError after `collective_timeout_s`."""
        return get_within(reference, self._train.collective_timeout_s, "the driver's metrics channel")

    def _send(self, *messages: Message) -> None:
        if messages:
            self.channel.put.remote(*messages)
