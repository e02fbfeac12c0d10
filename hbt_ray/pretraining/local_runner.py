"""Pretraining in this process, without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hbt_ray.config import PretrainRunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.data.zero_shot import keep_decontaminated
from hbt_ray.models.encoder import save_encoder
from hbt_ray.pretraining.perplexity import write_before_and_after
from hbt_ray.pretraining.task import AnyPretrainingTask, PretrainingTask, make_pretraining_task
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.local_runner import LocalCallbacks, run_remaining_steps
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import BatchT, OnMetrics, ignore_metrics
from hbt_ray.training.train_state import TrainState, should_evaluate
from hbt_ray.utils.atomic_write import atomic_folder
from hbt_ray.utils.storage import StoragePath


def pretrain_locally(
    config: PretrainRunConfig,
    store_folder: Path,
    folder: RunDir,
    device: str = "cpu",
    on_metrics: OnMetrics = ignore_metrics,
) -> dict[str, dict[str, float]]:
    """Pretrain to the last step, resuming from the newest checkpoint of the folder.

    Writes `model/` and `perplexity.json` (`held_out_loss.json` for the contrastive objective), as `hbt pretrain` does.

    Args:
        config: of the run.
        store_folder: a store that was prepared from `config.prepare_inputs`.
        folder: of the run.
        device: of the model.
        on_metrics: called with a step and its metrics; step 0 is before training.

    Returns:
        language -> held-out perplexity (or loss) "before" and "after".

    Raises:
        ConfigError: see `check_pretraining`.
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    folder.write_config(config)
    return _pretrain(make_pretraining_task(config, store_folder, folder), store_folder, folder, device, on_metrics)


def _pretrain(
    task: PretrainingTask[BatchT], store_folder: Path, folder: RunDir, device: str, on_metrics: OnMetrics
) -> dict[str, dict[str, float]]:
    store = TokenStore.open(store_folder)
    trainer = task.build_trainer(device)
    checkpoints = CheckpointManager(folder.checkpoints)
    callbacks = _PretrainingCallbacks(task, store, trainer, checkpoints, on_metrics, folder.checkpoint_metrics)
    known = dict(load_checkpoint_metrics(folder.checkpoint_metrics))
    if 0 not in known:
        known[0] = callbacks.evaluate(0)
    run_remaining_steps(callbacks, checkpoints.resume(trainer))
    last = checkpoints.final_step(task.train)
    checkpoints.load_weights(last, trainer.checkpointed_module)
    after = known[last] if last in known else callbacks.evaluate(last)
    with atomic_folder(folder.model) as partial:
        save_encoder(trainer.encoder, partial)  # without the head
        keep_decontaminated(store_folder, task.initial_model, partial)
    return write_before_and_after(folder.path, known[0], after)


@dataclass
class _PretrainingCallbacks(LocalCallbacks):
    """Evaluates the checkpoints that `evaluate_every` selects on held-out text."""

    task: AnyPretrainingTask
    checkpoint_metrics: StoragePath

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate the trainer's current weights; save, pass on and return the metrics."""
        metrics = self.task.evaluate(self.trainer, self.store)
        save_checkpoint_metrics(self.checkpoint_metrics, step, metrics)
        self.on_metrics(step, metrics)
        return metrics

    def after_save(self, progress: TrainState) -> None:
        """Evaluate the checkpoint if that is due."""
        if should_evaluate(progress, self.task.train):
            self.evaluate(progress.step)
