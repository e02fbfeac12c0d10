"""The report's sentences on the plan, the claims and the placebo."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hbt_ray.config import build, replace_in
from hbt_ray.evaluation.method_difference import MethodDifference
from hbt_ray.study.claim_sections import claim_sentence, claims_section, placebo_section
from hbt_ray.study.claims import Claim, ClaimResult
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.plan import keep_plan
from hbt_ray.study.report import summary
from hbt_ray.study.results import StudyResults
from tests.unit.study.example_study import SETTINGS

CLAIMS = [
    {"method": "hybrid", "versus": "untrained", "metric": "tiny/multi/map", "margin": 0.05, "pilot_sd": 0.02},
    {"method": "x-y", "versus": "hybrid", "metric": "tiny/gap/map", "kind": "non-inferior", "margin": 0.2},
    {"method": "x-y", "versus": "hybrid", "metric": "tiny/multi/map", "kind": "equivalent", "margin": 0.01},
]


@pytest.fixture
def claimed(results: StudyResults, tmp_path: Path) -> StudyResults:
    config = StudyConfig.model_validate(SETTINGS | {"claims": CLAIMS})
    keep_plan(config, tmp_path)
    shutil.copytree(results.folder / "cells", tmp_path / "cells")
    return StudyResults(config, tmp_path)


def test_report_has_the_hash_the_verdicts_and_the_seeds_needed(claimed: StudyResults):
    text = "\n".join(claims_section(claimed).lines)
    assert "was written before the first result." in text
    assert "- hybrid is better than untrained in tiny multi mAP: **" in text
    assert "- x-y differs from hybrid by less than 0.0100 in tiny multi mAP: **not shown** (difference -0." in text
    assert "90% interval" in text
    assert "| 0.0200 | pilot, in the plan | 3 |" in text
    assert "| these runs | 3 |" in text
    found = summary(claimed, [])["claims"]
    assert [one["shown"] for one in found][2] is False  # type: ignore[attr-defined]
    keep_plan(replace_in(claimed.config, "claims", ()), claimed.folder, has_ended=True)
    assert "**written or changed when results existed**. Earlier plans: `" in "\n".join(claims_section(claimed).lines)


def test_p_values_of_claims_are_corrected_together(claimed: StudyResults):
    tested = claimed.tested_claims()
    raw = [one.claim.p_value(one.difference, higher_is_better=True) for one in (tested[0], tested[2]) if one.difference]
    assert tested[0].p_value is not None
    assert tested[0].p_value >= 2 * raw[0]
    assert tested[2].p_value == pytest.approx(max(raw[1], tested[0].p_value))


def test_verdict_of_a_claim_is_one_sentence():
    claim = build(Claim, CLAIMS[1] | {"metric": "tiny/mono/map", "margin": 0.005})
    difference = MethodDifference((0.001, 0.003), 1e-6, 0.0, 20)
    assert claim_sentence(ClaimResult(claim, difference, 0.04)) == (
        "x-y is not worse than hybrid by 0.0050 in tiny mono mAP: **shown** (difference +0.0020, 90% interval "
        "-0.0043 to +0.0083, p 0.0400)."
    )
    assert claim_sentence(ClaimResult(claim, None, None)).endswith(
        "**not known**, with fewer than two seeds or clusters of questions."
    )


def test_one_seed_shows_no_claim(claimed: StudyResults):
    of_one = StudyResults(replace_in(claimed.config, "seeds", (0,)), claimed.folder)
    assert {one.is_shown for one in of_one.tested_claims()} == {None}
    assert "**not known**, with fewer than two seeds" in "\n".join(claims_section(of_one).lines)


def test_study_without_plan_claims_and_six_seeds_has_no_such_sections(results: StudyResults):
    assert claims_section(results).lines == []
    assert placebo_section(results).lines == []


def test_placebo_of_six_seeds_is_listed(results: StudyResults):
    of_six = StudyResults(replace_in(results.config, "seeds", tuple(range(6))), results.folder)
    shared = {
        method: [results.by_query(method, seed, "tiny/multi/map") for seed in (0, 1, 2)] for method in results.methods
    }
    of_six.by_query = lambda method, seed, metric: replace(  # type: ignore[method-assign]
        shared[method][seed % 3], terms=shared[method][seed % 3].terms + seed * 0.001
    )
    lines = placebo_section(of_six).lines
    assert len([line for line in lines if line.startswith("| hybrid")]) == 4
    assert "| hybrid | tiny multi mAP | 10 |" in "\n".join(lines)
