"""Summary of rounds, the file bench.json, and the line that is printed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hbt_ray.bench import BenchResult, describe_result, write_results
from hbt_ray.bench.result import summarize_rounds
from hbt_ray.errors import UserError

RESULT = BenchResult(4.0, "steps/s", 2.0, 2.0, (1.5, 2.5), {"peer_is": "another"})


def test_summary_has_medians_and_the_median_ratio_of_rounds():
    result = summarize_rounds([10, 30, 20], [5, 10, 20], "steps/s", {"a": 1})
    assert (result.value, result.baseline) == (20, 10)
    assert (result.ratio, result.spread) == (2, (1, 3))  # of 2, 3 and 1
    assert result.details == {"a": 1}


def test_summary_compares_seconds_as_speeds():
    result = summarize_rounds([1.0, 2.0], [10.0, 10.0], "s", {})
    assert (result.ratio, result.spread) == (7.5, (5, 10))


def test_file_keeps_results_of_other_parts(tmp_path):
    write_results({"feed": RESULT, "embed": RESULT}, tmp_path / "new")
    write_results({"feed": replace(RESULT, value=8.0)}, tmp_path / "new")
    found = json.loads((tmp_path / "new/bench.json").read_text())
    whole = {"unit": "steps/s", "peer": 2.0, "ratio": 2.0, "spread": [1.5, 2.5], "details": {"peer_is": "another"}}
    assert found == {"feed": {"value": 8.0, **whole}, "embed": {"value": 4.0, **whole}}
    (tmp_path / "new/bench.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read .*; move it away"):
        write_results({"feed": RESULT}, tmp_path / "new")


def test_description_leaves_out_nested_details():
    line = describe_result("feed", replace(RESULT, details={"peak_mib": 12.34567, "predicted": [1], "assumed": {}}))
    assert line == "feed: 4 steps/s against 2, ratio 2 (1.5 to 2.5), peak_mib 12.35"
