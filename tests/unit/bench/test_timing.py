"""Alternating rounds of two contestants, each in its own process."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.bench import Contestant, compare_alternating
from hbt_ray.bench.timing import scratch_folder
from hbt_ray.errors import UserError
from tests.helpers.timing_contestants import (
    make_memory_round,
    make_sleeping_round,
    raise_missing_library,
    raise_value_error,
)


def test_comparison_is_of_work_per_second():
    # 6 in 0.04 s against 1 in 0.02 s: 150 against 50 a second at most, as sleep is never short; on a busy machine it is
    # long, but not by so much that less were done in a second than in one call.
    result = compare_alternating(
        Contestant(make_sleeping_round, (0.04, 6)),
        Contestant(make_sleeping_round, (0.02, 1)),
        unit="steps/s",
        rounds=3,
        warm_up=0,
    )
    assert 6 < result.value <= 150
    assert 1 < result.baseline <= 50
    assert result.spread[0] <= result.ratio <= result.spread[1]


def test_round_with_repeats_counts_with_their_mean():
    once = Contestant(make_sleeping_round, (0.04, 6))
    thrice = Contestant(make_sleeping_round, (0.04, 6), repeats=3)
    by_work = compare_alternating(once, thrice, unit="steps/s", rounds=1, warm_up=0)
    assert 6 < by_work.baseline <= 150
    by_time = compare_alternating(once, thrice, unit="s", rounds=1, warm_up=0)
    assert 0.04 <= by_time.baseline < 1


def test_peak_memory_of_a_contestant_excludes_its_parents():
    held = np.ones(200 * 2**20, np.uint8)  # of this process
    result = compare_alternating(
        Contestant(make_memory_round, (80,)), Contestant(make_memory_round, (1,)), unit="steps/s", rounds=1, warm_up=0
    )
    assert held[0]
    assert 70 < result.details["peak_mib"] - result.details["peer_peak_mib"] < 90
    assert result.details["peer_peak_mib"] < 150


def test_comparison_raises_the_error_of_a_failed_contestant():
    sleeping = Contestant(make_sleeping_round, (0, 1))
    with pytest.raises(UserError, match="a contestant of the benchmark failed: ValueError: no luck"):
        compare_alternating(sleeping, Contestant(raise_value_error), unit="steps/s")
    with pytest.raises(ImportError) as raised:
        compare_alternating(Contestant(raise_missing_library), sleeping, unit="steps/s")
    assert raised.value.name == "accelerate"


def test_scratch_folder_leaves_a_folder_of_its_name(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "results.json").touch()
    with scratch_folder(tmp_path / "search") as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "store").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["search", "search/results.json"]
