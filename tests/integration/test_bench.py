"""Every part of the benchmark that needs a cluster, at sizes that end in seconds: that it runs, not how fast."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hbt_ray.bench.registry import part_function
from hbt_ray.bench.result import write_results
from hbt_ray.bench.settings import BenchSettings

UNITS = {
    "train_under_ray": "steps/s",
    "two_workers": "pairs/s",
    "prepare": "rows/s",
    "start_up": "s",
    "search": "queries/s",
}


def _slow(name: str) -> object:
    reason = "takes a minute: set HBT_SLOW_TESTS"
    return pytest.param(name, marks=pytest.mark.skipif("HBT_SLOW_TESTS" not in os.environ, reason=reason))


SLOW = map(_slow, ("two_workers", "train_under_ray", "start_up"))


@pytest.mark.parametrize("name", ["prepare", "search", *SLOW])
def test_a_part_tells_its_figure_and_its_peers(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("HBT_DATA", raising=False)
    unit = UNITS[name]
    figure = part_function(name)(BenchSettings(out=tmp_path, rounds=1, quick=True))
    assert figure.unit == unit
    assert figure.value > 0
    assert figure.peer > 0
    expected = figure.peer / figure.value if unit == "s" else figure.value / figure.peer
    assert figure.ratio == pytest.approx(expected)
    assert figure.details["peer_is"]
    assert list(tmp_path.iterdir()) == []  # what it made is gone
    assert json.loads(write_results({name: figure}, tmp_path).read_text())[name]["unit"] == unit
    if name == "search":  # shards find what one index finds
        for shards in (1, 2, 4):
            found = figure.details[f"{shards}_shards"]
            assert found["found"] == 1
            assert found["equal"] is True
            assert found["peak_mib"] > 0
