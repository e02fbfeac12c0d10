"""The configurations that a search tries, and their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hbt_ray.config import AlphaSchedule, RunConfig, replace_in, with_settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration, as the settings that it changes: full key -> value."""

    values: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """A short name for folders and tables, the same in every process.

        >>> Candidate({"mix.alpha": 0.25, "train.steps": 600}).name
        'alpha=0.25,steps=600'
        """
        return ",".join(f"{key.rpartition('.')[2]}={_short_text(value)}" for key, value in self.values.items())

    def config(self, base: RunConfig, seed: int) -> RunConfig:
        """Return the run that changes these settings of `base`. Raises ConfigError if a value is out of range."""
        return with_settings(base, {**self.values, "seed": seed})


def with_alphas(config: RunConfig, alphas: Sequence[tuple[int, float]]) -> RunConfig:
    """Return the run with a schedule of alpha: (first batch, alpha), constant until the next batch listed."""
    schedule = AlphaSchedule(points=tuple(alphas), between="hold")
    return replace_in(config, "mix.alpha_schedule", schedule)


def round_drawn(value: object) -> object:
    """Round a float to 4 digits, so that the value trained with is the one in names and tables."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _short_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in text)[:40]
