"""The configurations that a search tries, and their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hbt_ray.config import RunConfig, with_settings
from hbt_ray.config.base import Settings
from hbt_ray.utils.file_names import with_hash

# Characters of a folder's name, which has 255 bytes at most; a seed follows.
_MAX_NAME = 200
_MAX_TEXT = 40

Mixture = tuple[int, Settings]  # first batch, and the searched settings of the mix from there on


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
        name = ",".join(f"{key.rpartition('.')[2]}={short_text(value)}" for key, value in self.values.items())
        return name if len(name) <= _MAX_NAME else with_hash(name[:_MAX_NAME], name)

    def config(self, base: RunConfig, seed: int) -> RunConfig:
        """Return the run that changes these settings of `base`. Raises ConfigError if a value is out of range."""
        return with_settings(base, {**self.values, "seed": seed})


def with_mixtures(config: RunConfig, mixtures: Sequence[Mixture]) -> RunConfig:
    """Return the run whose mix changes: that of the first mixture, with the others as its phases.

    Raises:
        ConfigError: a value is out of range.
    """
    phases = [
        {"first_batch": batch, **{key.removeprefix("mix."): value for key, value in values.items()}}
        for batch, values in mixtures[1:]
    ]
    return with_settings(config, {**mixtures[0][1], "mix.phases": phases})


def round_drawn(value: object) -> object:
    """Round a float to 4 digits, so that the value trained with is the one in names and tables."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights divided by their sum, rounded to 4 decimals, at least 0.0001.

    >>> shares_of({"de": 2.0, "en": 1.0, "fr": 0.0})
    {'de': 0.6667, 'en': 0.3333, 'fr': 0.0001}
    """
    total = sum(weights.values())
    return {name: max(round(weight / total, 4), 1e-4) for name, weight in weights.items()}


def short_text(value: object) -> str:
    """Return a value as a part of a file's name: of a long text its beginning and a hash.

    >>> short_text(0.25), short_text([32, 64]), short_text("models/e5"), short_text({"de": 0.6, "en": 0.4})
    ('0.25', '_32_64_', 'models_e5-3059b383', 'de_0.6_en_0.4')
    """
    if isinstance(value, Mapping) and all(isinstance(share, float) for share in value.values()):
        value = "_".join(f"{name}_{share:g}" for name, share in value.items())
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    safe = "".join(c if c.isalnum() or c in ".-_" else "_" for c in text)
    # Two texts, such as paths, may differ only in the characters that are replaced.
    is_faithful = safe == text or not isinstance(value, str)
    return safe if is_faithful and len(safe) <= _MAX_TEXT else with_hash(safe[:_MAX_TEXT], text)
