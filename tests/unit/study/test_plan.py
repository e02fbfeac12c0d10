"""A plan is written before the first result, and a later change of it is not hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.config import replace_in
from hbt_ray.errors import UserError
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.plan import keep_plan, read_plan, study_plan
from hbt_ray.utils.digests import without_checksum
from tests.unit.study.example_study import SETTINGS

CLAIM = {"method": "hybrid", "versus": "x-y", "metric": "tiny/multi/map", "margin": 1.0, "pilot_sd": 1.0}
CONFIG = StudyConfig.model_validate(SETTINGS | {"claims": [CLAIM]})


def with_a_result(folder: Path) -> None:
    file = folder / "cells" / "hybrid" / "seed-0" / "evaluation" / "tiny" / "report.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")


def test_plan_has_claims_with_power_and_a_hash_of_all(tmp_path: Path):
    keep_plan(CONFIG, tmp_path)
    plan = read_plan(tmp_path)
    assert plan is not None
    [claim] = plan["claims"]
    assert (claim["kind"], claim["margin"], claim["seeds_needed"], plan["seeds"]) == ("superior", 1.0, 10, [0, 1, 2])
    assert 0.1 < claim["power"] < 0.3  # of three seeds
    assert (plan["after_results"], plan["earlier"]) == (False, [])
    text = (tmp_path / "plan.json").read_text()
    assert without_checksum(text)["claims"] == plan["claims"]
    assert json.loads(text)["sha256"] == plan["sha256"]


def test_unchanged_plan_is_kept_after_results(tmp_path: Path):
    keep_plan(CONFIG, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    with_a_result(tmp_path)
    keep_plan(replace_in(CONFIG, "title", "Another title"), tmp_path, has_ended=True)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_study_that_is_refused_leaves_the_plan(tmp_path: Path):
    keep_plan(CONFIG, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    with_a_result(tmp_path)
    keep_plan(replace_in(CONFIG, "run.train.steps", 7), tmp_path)  # and the training is refused
    assert (tmp_path / "plan.json").read_bytes() == before


def test_change_before_results_is_no_change(tmp_path: Path):
    keep_plan(replace_in(CONFIG, "seeds", (0,)), tmp_path)
    keep_plan(CONFIG, tmp_path)
    plan = read_plan(tmp_path)
    assert plan is not None
    assert (plan["after_results"], plan["earlier"], plan["seeds"]) == (False, [], [0, 1, 2])


@pytest.mark.parametrize(
    ("key", "value"),
    [("seeds", (0, 1, 2, 3)), ("claims", ()), ("measures", ("tiny/multi/map",)), ("run.train.steps", 7)],
)
def test_change_after_results_names_the_earlier_plans(tmp_path: Path, key: str, value: object):
    keep_plan(CONFIG, tmp_path)
    first = read_plan(tmp_path)
    with_a_result(tmp_path)
    keep_plan(replace_in(CONFIG, key, value), tmp_path, has_ended=True)
    second = read_plan(tmp_path)
    assert first is not None
    assert second is not None
    assert (second["after_results"], second["earlier"]) == (True, [first["sha256"]])
    keep_plan(CONFIG, tmp_path, has_ended=True)  # the first one again is a change, too
    third = read_plan(tmp_path)
    assert third is not None
    assert third["earlier"] == [first["sha256"], second["sha256"]]


def test_plan_that_is_first_written_after_results_says_so(tmp_path: Path):
    with_a_result(tmp_path)
    keep_plan(CONFIG, tmp_path)
    assert read_plan(tmp_path) is None
    keep_plan(CONFIG, tmp_path, has_ended=True)
    plan = read_plan(tmp_path)
    assert plan is not None
    assert (plan["after_results"], plan["earlier"]) == (True, [])


def test_damaged_plan_is_refused_in_one_sentence(tmp_path: Path):
    keep_plan(CONFIG, tmp_path)
    file = tmp_path / "plan.json"
    whole = file.read_text()
    for content in (whole.replace('"margin": 1.0', '"margin": 2.0'), whole[:50], "[]", "{}", '{"study": 1}'):
        file.write_text(content)
        with pytest.raises(UserError, match=r"plan\.json' is not a plan as it was written"):
            keep_plan(CONFIG, tmp_path)


def test_plan_does_not_depend_on_names_and_tracking():
    other = replace_in(CONFIG, "run.tracking.experiment", "other")
    assert study_plan(other) == study_plan(CONFIG)
    assert study_plan(replace_in(CONFIG, "run.mix.alpha", 0.25))["settings"] != study_plan(CONFIG)["settings"]
