"""A pretraining in this process, from wherever it was left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hbt_ray.config import PretrainRunConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.models.encoder import save_encoder
from hbt_ray.pretraining.perplexity import evaluate_held_out, write_before_and_after
from hbt_ray.pretraining.task import PretrainingTask, pretraining_job
from hbt_ray.training.base_trainer import BaseTrainer
from hbt_ray.training.checkpoint import CheckpointManager
from hbt_ray.training.checkpoint_metrics import load_checkpoint_metrics, save_checkpoint_metrics
from hbt_ray.training.local_runner import LocalCallbacks, ignore_metrics
from hbt_ray.training.run_dir import RunDir
from hbt_ray.training.task import BatchT, OnMetrics
from hbt_ray.training.train_loop import run_train_loop
from hbt_ray.training.train_state import TrainState, should_evaluate
from hbt_ray.utils.storage import StoragePath


def pretrain_locally(
    config: PretrainRunConfig,
    store_folder: Path,
    folder: RunDir,
    device: str = "cpu",
    on_metrics: OnMetrics = ignore_metrics,
) -> dict[str, dict[str, float]]:
    """Pretrains to the end, without Ray; called again for the same folder, it goes on from the newest checkpoint.

    Leaves `model/` and `perplexity.json` in the folder, as `hbt pretrain` does.

    Args:
        store_folder: a store that was prepared from `config.prepare_inputs`.
        on_metrics: takes each step and its metrics; at step 0, before training.

    Returns:
        language -> its perplexity "before" and "after"; of the contrastive objective its held-out loss.

    Raises:
        ConfigError: the corpora or the encoder cannot be pretrained on so.
        TrainingDiverged: more gradients were not finite than allowed.
        CheckpointError: a checkpoint cannot be written.
    """
    folder.begin(config)
    job = pretraining_job(config, store_folder, folder)
    store = TokenStore.open(store_folder)
    trainer = job.build_trainer(device)
    checkpoints = CheckpointManager(folder.checkpoints)
    callbacks = _EvaluatingCallbacks(job, store, trainer, checkpoints, on_metrics, folder.checkpoint_metrics)
    known = dict(load_checkpoint_metrics(folder.checkpoint_metrics))
    if 0 not in known:
        known[0] = callbacks.evaluate(0)
    progress = checkpoints.load_newest(trainer)[0] or TrainState()
    each = config.pretrain.gradient_accumulation
    batches = job.batches(store, range(progress.step * each, config.pretrain.steps * each))
    run_train_loop(trainer, progress, batches, job.validation_batches(store), callbacks)
    last = checkpoints.final_step(config.pretrain)
    checkpoints.load_weights(last, trainer.checkpointed_module)
    after = known[last] if last in known else callbacks.evaluate(last)
    save_pretrained(trainer, folder)
    return write_before_and_after(folder.path, known[0], after)


def save_pretrained(trainer: BaseTrainer[BatchT], folder: RunDir) -> None:
    """Writes the encoder, without the head, as a folder that `hbt train model.path=...` takes."""
    save_encoder(trainer.encoder, folder.model)


@dataclass
class _EvaluatingCallbacks(LocalCallbacks):
    """Evaluates the checkpoints that `evaluate_every` selects on held-out text."""

    task: PretrainingTask
    checkpoint_metrics: StoragePath

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate the weights as they are now; save, pass on and return the metrics."""
        metrics = evaluate_held_out(self.trainer, self.task.config, self.store, self.task.rules)
        save_checkpoint_metrics(self.checkpoint_metrics, step, metrics)
        self.on_metrics(step, metrics)
        return metrics

    def after_save(self, progress: TrainState) -> None:
        """Evaluate the checkpoint if that is due."""
        if should_evaluate(progress, self.task.train):
            self.evaluate(progress.step)
