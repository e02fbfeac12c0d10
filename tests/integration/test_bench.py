"""Parts of the benchmark that need a cluster, at small sizes: each runs; its speed is not checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.bench.registry import BenchSettings, load_part
from hbt_ray.bench.result import write_results
from tests.helpers.slow import slow

UNITS = {
    "train_under_ray": "steps/s",
    "two_workers": "pairs/s",
    "vocabulary_step": "s",
    "reproducible": "pairs/s",
    "prepare": "rows/s",
    "start_up": "s",
    "search": "queries/s",
}


FAST = "search"
SLOW = [pytest.param(name, marks=slow) for name in UNITS if name != FAST]


@pytest.mark.parametrize("name", [FAST, *SLOW])
def test_part_returns_its_value_and_its_baseline(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("HBT_DATA", raising=False)
    unit = UNITS[name]
    result = load_part(name)(BenchSettings(out=tmp_path, rounds=1, quick=True))
    assert result.unit == unit
    assert result.value > 0
    assert result.baseline > 0
    expected = result.baseline / result.value if unit == "s" else result.value / result.baseline
    assert result.ratio == pytest.approx(expected)
    assert result.details["peer_is"]
    assert list(tmp_path.iterdir()) == []  # its scratch files are deleted
    assert json.loads(write_results({name: result}, tmp_path).read_text())[name]["unit"] == unit
    if name == FAST:  # shards find what one index finds
        for shards in (1, 2, 4):
            found = result.details[f"{shards}_shards"]
            assert found["found"] == 1
            assert found["equal"] is True
            assert found["peak_mib"] > 0
