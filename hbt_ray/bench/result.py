"""What a part of the benchmark found, and the file that holds all parts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hbt_ray.errors import UserError


@dataclass(frozen=True, slots=True)
class BenchResult:
    """This project's figure and its peer's, taken in turns in one run."""

    value: float  # the rounds' median
    unit: str
    peer: float  # what it is compared with, in the same unit
    ratio: float  # the median of the rounds' own ratios: of speeds, or where the unit is one of memory, of memory
    spread: tuple[float, float]  # the least and the greatest of the rounds' ratios
    details: Mapping[str, Any] = field(default_factory=dict)  # who the peer is, peak memory and the like


def of_rounds(values: Sequence[float], peers: Sequence[float], unit: str, details: Mapping[str, Any]) -> BenchResult:
    """The figure of rounds, each with a value and its peer's. Seconds are compared as speeds: peer by value."""
    slower_is_more = unit == "s"
    ratios = [peer / value if slower_is_more else value / peer for value, peer in zip(values, peers, strict=True)]
    return BenchResult(
        statistics.median(values),
        unit,
        statistics.median(peers),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        dict(details),
    )


def write_results(figures: Mapping[str, BenchResult], folder: Path) -> Path:
    """Writes `bench.json`, in which parts of earlier runs stay that were not taken again.

    Raises:
        UserError: the file that is there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); move it away, or write another --out") from None
    known |= {name: asdict(figure) for name, figure in figures.items()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def describe_result(name: str, figure: BenchResult) -> str:
    """One line for a reader; what is nested in the details stands in the file alone."""
    least, most = figure.spread
    told = "".join(f", {key} {_shown(value)}" for key, value in figure.details.items() if _is_short(value))
    return (
        f"{name}: {figure.value:.4g} {figure.unit} against {figure.peer:.4g}, "
        f"ratio {figure.ratio:.3g} ({least:.3g} to {most:.3g}){told}"
    )


def _is_short(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
