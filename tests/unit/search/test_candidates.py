"""The settings that a candidate changes."""

from __future__ import annotations

from hbt_ray.config import build_config
from hbt_ray.search.candidates import Candidate, short_text


def test_candidate_changes_only_the_settings_it_names():
    base = build_config({"mix": {"cross_pairs": "mixed"}, "train": {"steps": 7}})
    config = Candidate({"mix.alpha": 0.25, "mix.alpha_schedule": {"points": [[0, 0.9]]}}).config(base, seed=3)
    assert (config.seed, config.train.steps, config.mix.cross_pairs) == (3, 7, "mixed")
    assert config.mix.alpha_schedule is not None
    assert config.mix.alpha_schedule.points == ((0, 0.9),)


def test_candidates_of_long_or_similar_paths_have_folders_of_their_kind():
    folder = "/data/models/" + "x" * 40
    for one, other in ((f"{folder}/a", f"{folder}/b"), ("/a/b", "/a_b")):
        names = [Candidate({"model.path": path, "mix.alpha": 0.5}).name for path in (one, other)]
        assert names[0] != names[1]
        assert all("/" not in name and len(name) < 100 for name in names)
    assert short_text("x-y") == "x-y"
    assert len(Candidate({f"a{n}": "b" * 40 for n in range(9)}).name) < 220
