"""What was measured of a run's checkpoints while it trained: a file for each, named by its step.

Imported by Ray Train's controller, which waits for it: nothing here that takes seconds to import.
"""

from __future__ import annotations

import json

from hbt_ray.storage import Place

Measurement = tuple[int, dict[str, float]]  # optimizer step, metrics


def write_measurement(measured: Place, step: int, metrics: dict[str, float]) -> None:
    (measured / f"{step}.json").write_text(json.dumps(metrics, indent=1) + "\n")


def measured_steps(measured: Place) -> list[int]:
    """Steps of the checkpoints that were measured, ascending."""
    return sorted(int(name.removesuffix(".json")) for name in measured.names() if name.endswith(".json"))


def measurements(measured: Place) -> list[Measurement]:
    """What was measured, by step."""
    return [(step, json.loads((measured / f"{step}.json").read_text())) for step in measured_steps(measured)]
