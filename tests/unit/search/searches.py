"""Searches and trials for tests."""

from __future__ import annotations

from typing import Any

from hbt_ray.search.candidates import Candidate
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import Trial


def search_of(**settings: Any) -> SearchConfig:
    """Build a search over three alphas."""
    return SearchConfig.model_validate({"space": {"mix.alpha": [0.0, 0.5, 1.0]}, **settings})


def trial(alpha: float, seed: int, mono: float, cross: float, state: Any = "finished", steps: int = 10) -> Trial:
    """Return a trial with the means of a dev set."""
    metrics = {
        "held-out/mono/map": mono,
        "held-out/cross/map": cross,
        "held-out/multi/map": 0.5,
        "held-out/multi/rank_distance": 100.0 * (1 - cross),
        "held-out/multi/rank_distance/de": 100.0 * (1 - cross),
    }
    candidate = Candidate({"mix.alpha": alpha})
    return Trial(f"{candidate.name},seed={seed}", candidate, seed, state, [(steps, metrics)], reason="it broke")


TRIALS = (
    trial(0.0, 0, 0.5, 0.9),
    trial(0.0, 1, 0.6, 0.8),
    trial(0.5, 0, 0.8, 0.8),
    trial(0.5, 1, 0.8, 0.7),
    trial(0.75, 0, 0.9, 0.2),
    trial(0.75, 1, 0.9, 0.2),
    trial(1.0, 0, 0.95, 0.95),
    trial(1.0, 1, 0.0, 0.0, "stopped", 5),
)
