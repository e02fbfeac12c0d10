"""Metrics of evaluated checkpoints: a JSON file for each, `measured/<step>.json` in the run's storage.

These files are the record of which checkpoints have been evaluated. They outlive the driver, so a run that is called
again evaluates only what is missing. Each has a checksum of its content.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

import logging

from hbt_ray.errors import StorageError
from hbt_ray.utils.digests import with_checksum, without_checksum
from hbt_ray.utils.storage import StoragePath

logger = logging.getLogger(__name__)

Measurement = tuple[int, dict[str, float]]  # optimizer step, metrics


def save_checkpoint_metrics(folder: StoragePath, step: int, metrics: dict[str, float]) -> None:
    """Write the metrics of a step's checkpoint."""
    (folder / f"{step}.json").write_text(with_checksum(metrics, step=step))


def evaluated_steps(folder: StoragePath) -> list[int]:
    """Return the steps of the evaluated checkpoints, ascending."""
    return [step for step, _ in load_checkpoint_metrics(folder)]


def load_checkpoint_metrics(folder: StoragePath, *, can_repeat: bool = True) -> list[Measurement]:
    """Return the steps and metrics of the evaluated checkpoints, ascending by step.

    Args:
        folder: with the files.
        can_repeat: pass over a damaged file with a warning, so that its checkpoint is evaluated again.

    Raises:
        StorageError: a file is not as it was written, and its evaluation cannot be repeated.
    """
    evaluated = []
    for name in folder.names():
        step = name.removesuffix(".json")
        if step.isdecimal() and name.endswith(".json"):
            try:
                evaluated.append((int(step), _parse((folder / name).read_text(), int(step))))
            except ValueError as error:
                if not can_repeat:
                    file = folder / name
                    raise StorageError(f"the metrics {file} are damaged ({error}); write another --out") from None
                logger.warning("the metrics %s are passed over: %s", folder / name, error)
    return sorted(evaluated, key=lambda measurement: measurement[0])


def _parse(text: str, step: int) -> dict[str, float]:
    """Return the metrics of a file. Raise ValueError if it is not as it was written, or not of the step."""
    metrics = without_checksum(text, step=step)
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise ValueError("a value is no number")
    return metrics
