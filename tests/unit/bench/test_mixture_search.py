"""Branches of one training against independent trainings."""

from __future__ import annotations

import json

from hbt_ray.bench.mixture_search import Point, bench_mixture_search, best_of
from hbt_ray.bench.registry import BenchSettings


def test_best_of_some_trainings_is_a_mean_over_their_choices():
    points = [Point(0.2, 0.3, 1), Point(0.1, 0.5, 1), Point(0.3, 0.7, 1)]
    assert best_of(points, 1) == (0.3 + 0.5 + 0.7) / 3
    assert best_of(points, 3) == 0.7  # the best on the dev items


def test_search_continues_with_what_was_not_trained(tmp_path):
    settings = BenchSettings(tmp_path, rounds=1, quick=True)
    result = bench_mixture_search(settings)
    assert result.value == 2 * 2 + 2  # two branches of two steps, and the best one further
    file = tmp_path / "mixture_search.json"
    known = json.loads(file.read_text())
    assert known.keys() == {"size 0", "random 0 0", "random 0 1", "random 0 2", "branch 0"}
    assert all(0 < dev < 1 and 0 < test < 1 for dev, test, _ in known.values())
    file.write_text(json.dumps(known | {"branch 0": [0.5, 1.0, 6]}))  # a quality that random search does not reach
    again = bench_mixture_search(settings)
    assert (again.details["is_reached"], again.baseline, again.details["branches"]) == (False, 3 * 4, (1.0, 0.0))
