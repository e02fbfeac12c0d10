"""What was measured of a run's checkpoints while it trained: a file for each, named by its step.

Imported by Ray Train's controller, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

import json

from hbt_ray.utils.storage import StoragePath

Measurement = tuple[int, dict[str, float]]  # optimizer step, metrics


def save_checkpoint_metrics(measured: StoragePath, step: int, metrics: dict[str, float]) -> None:
    (measured / f"{step}.json").write_text(json.dumps(metrics, indent=1) + "\n")


def evaluated_steps(measured: StoragePath) -> list[int]:
    """Steps of the checkpoints that were measured, ascending."""
    return sorted(int(name.removesuffix(".json")) for name in measured.names() if name.endswith(".json"))


def load_checkpoint_metrics(measured: StoragePath) -> list[Measurement]:
    """What was measured, by step."""
    return [(step, json.loads((measured / f"{step}.json").read_text())) for step in evaluated_steps(measured)]
