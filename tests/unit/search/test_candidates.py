"""The settings that a candidate changes."""

from __future__ import annotations

from hbt_ray.config import build_config
from hbt_ray.search.candidates import Candidate


def test_candidate_changes_only_the_settings_it_names():
    base = build_config({"mix": {"cross_pairs": "mixed"}, "train": {"steps": 7}})
    config = Candidate({"mix.alpha": 0.25, "mix.alpha_schedule": {"points": [[0, 0.9]]}}).config(base, seed=3)
    assert (config.seed, config.train.steps, config.mix.cross_pairs) == (3, 7, "mixed")
    assert config.mix.alpha_schedule is not None
    assert config.mix.alpha_schedule.points == ((0, 0.9),)
