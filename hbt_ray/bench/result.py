"""Result of one part of the benchmark, and the file `bench.json` that holds the results of all parts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbt_ray.errors import UserError
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.limits import load_json


@dataclass(frozen=True, slots=True)
class BenchResult:
    """This project's value and its baseline's, from alternating rounds of one run."""

    value: float  # median of the rounds
    unit: str
    baseline: float  # median of the baseline's rounds, in the same unit
    ratio: float  # median of the rounds' ratios: of speeds, or of memory where the unit is one of memory
    spread: tuple[float, float]  # smallest and largest ratio of a round
    details: Mapping[str, Any] = field(default_factory=dict)  # a description of the baseline, peak memory and so on

    def as_json(self) -> dict[str, object]:
        """Return the entry of `bench.json`, in which the baseline is called `peer`."""
        return {
            "value": self.value,
            "unit": self.unit,
            "peer": self.baseline,
            "ratio": self.ratio,
            "spread": self.spread,
            "details": self.details,
        }


def summarize_rounds(
    values: Sequence[float], baselines: Sequence[float], unit: str, details: Mapping[str, object]
) -> BenchResult:
    """Summarize rounds by medians.

    Args:
        values: one for each round.
        baselines: one for each round, in the same order.
        unit: of both. With "s" the ratio is baseline / value, so that a ratio above 1 always means faster.
        details: copied into the result.
    """
    ratios = [
        baseline / value if unit == "s" else value / baseline for value, baseline in zip(values, baselines, strict=True)
    ]
    return BenchResult(
        statistics.median(values),
        unit,
        statistics.median(baselines),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        dict(details),
    )


def write_results(results: Mapping[str, BenchResult], folder: Path) -> Path:
    """Write results into the folder's `bench.json`; entries of other parts in the file are kept.

    Raises:
        UserError: the existing file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    try:
        known = load_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); move it away, or write another --out") from None
    known |= {name: result.as_json() for name, result in results.items()}
    atomic_write_text(path, json.dumps(known, indent=1) + "\n")
    return path


def describe_result(name: str, result: BenchResult) -> str:
    """Return a result in one line; details that are containers are left out."""
    low, high = result.spread
    details = "".join(
        f", {key} {_format(value)}"
        for key, value in result.details.items()
        if not isinstance(value, Mapping | list | tuple)
    )
    return (
        f"{name}: {result.value:.4g} {result.unit} against {result.baseline:.4g}, "
        f"ratio {result.ratio:.3g} ({low:.3g} to {high:.3g}){details}"
    )


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
