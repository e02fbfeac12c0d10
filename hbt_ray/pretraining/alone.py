"""A pretraining in this process, from wherever it was left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hbt_ray.alone import AloneCompany, Report, unheard
from hbt_ray.checkpoint import Checkpoints
from hbt_ray.config import PretrainRunConfig
from hbt_ray.experiment import RunFolder
from hbt_ray.loop import train_to_the_end
from hbt_ray.measured import measurements, write_measurement
from hbt_ray.model import save_encoder
from hbt_ray.pretraining.held_out import measure_held_out, write_before_and_after
from hbt_ray.pretraining.job import PretrainingJob, pretraining_job
from hbt_ray.progress import Progress, evaluation_is_due
from hbt_ray.stepper import Stepper
from hbt_ray.storage import Place
from hbt_ray.store import TokenStore


def pretrain_alone(
    config: PretrainRunConfig, store_folder: Path, folder: RunFolder, device: str = "cpu", report: Report = unheard
) -> dict[str, dict[str, float]]:
    """Pretrains to the end, without Ray; called again for the same folder, it goes on from the newest checkpoint.

    Leaves `model/` and `perplexity.json` in the folder, as `hbt pretrain` does.

    Args:
        store_folder: a store that was prepared with `config.preparing`, texts whole.
        report: takes each step and what was measured there; at step 0, before training.

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
    stepper = job.stepper(device)
    checkpoints = Checkpoints(folder.checkpoints)
    company = _Company(job, store, stepper, checkpoints, report, measured=folder.measured)
    known = dict(measurements(folder.measured))
    if 0 not in known:
        known[0] = company.measure(0)
    progress = checkpoints.load_newest(stepper)[0] or Progress()
    each = config.pretrain.gradient_accumulation
    batches = job.batches(store, range(progress.step * each, config.pretrain.steps * each))
    train_to_the_end(stepper, progress, batches, job.validation_batches(store), company)
    last = checkpoints.to_keep(config.pretrain)
    checkpoints.load_weights(last, stepper.kept)
    after = known[last] if last in known else company.measure(last)
    save_pretrained(stepper, folder)
    return write_before_and_after(folder.path, known[0], after)


def save_pretrained(stepper: Stepper[Any], folder: RunFolder) -> None:
    """Writes the encoder, without the head, as a folder that `hbt train model.path=...` takes."""
    save_encoder(stepper.encoder, folder.model)  # type: ignore[attr-defined]


class _Company(AloneCompany):
    """Held-out text is measured with the checkpoints for which that is due."""

    job: PretrainingJob

    def __init__(self, *around: Any, measured: Place) -> None:
        super().__init__(*around)
        self.measured = measured

    def measure(self, step: int) -> dict[str, float]:
        """Of the weights as they are."""
        metrics = measure_held_out(self.trainer, self.job.config, self.store, self.job.rules)
        write_measurement(self.measured, step, metrics)
        self.report(step, metrics)
        return metrics

    def saved(self, progress: Progress) -> None:
        if evaluation_is_due(progress, self.job.train):
            self.measure(progress.step)
