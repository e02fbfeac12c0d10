"""Metrics of evaluated checkpoints: a JSON file for each, `measured/<step>.json` in the run's storage.

These files are the record of which checkpoints have been evaluated. They outlive the driver, so a run that is called
again evaluates only what is missing.

Ray Train's controller imports this module and waits for it, so it imports nothing that takes seconds.
"""

from __future__ import annotations

import json

from hbt_ray.utils.storage import StoragePath

Measurement = tuple[int, dict[str, float]]  # optimizer step, metrics


def save_checkpoint_metrics(folder: StoragePath, step: int, metrics: dict[str, float]) -> None:
    """Write the metrics of a step's checkpoint."""
    (folder / f"{step}.json").write_text(json.dumps(metrics, indent=1) + "\n")


def evaluated_steps(folder: StoragePath) -> list[int]:
    """Return the steps of the evaluated checkpoints, ascending."""
    return sorted(int(name.removesuffix(".json")) for name in folder.names() if name.endswith(".json"))


def load_checkpoint_metrics(folder: StoragePath) -> list[Measurement]:
    """Return the steps and metrics of the evaluated checkpoints, ascending by step."""
    return [(step, json.loads((folder / f"{step}.json").read_text())) for step in evaluated_steps(folder)]
