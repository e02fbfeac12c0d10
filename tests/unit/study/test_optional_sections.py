from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from hbt_ray.study import optional_sections
from hbt_ray.study.config import Method, SectionName
from hbt_ray.study.optional_sections import OPTIONAL_SECTIONS, gap_section, robustness_section
from hbt_ray.study.report_sections import ReportSection, format_estimate
from hbt_ray.study.results import StudyResults


def test_every_section_name_of_the_settings_has_a_function():
    assert list(OPTIONAL_SECTIONS) == list(get_args(SectionName))


@pytest.mark.parametrize("name", [name for name in OPTIONAL_SECTIONS if name != "scale"])
def test_section_links_each_of_its_figures(results: StudyResults, name: SectionName):
    section = OPTIONAL_SECTIONS[name](results)
    links = [line for line in section.lines if line.startswith("![")]
    assert [line.rpartition("/")[2] for line in links] == [f"{figure}.png)" for figure in section.figures]
    assert section.lines[-1] == ""


def test_figures_of_methods_are_in_the_figures_folder(results: StudyResults):
    named = StudyResults(results.config, results.folder)
    named.config = results.config.model_copy(update={"methods": {"a/b": Method(), "C + d": Method()}})
    of = {"a/b": "hybrid", "C + d": "x-y"}
    named.experiments = {(name, seed): results.experiments[of[name], seed] for name in of for seed in (0, 1, 2)}
    assert set(gap_section(named).figures) == {"gap-tiny", "gap-matrix-tiny--a-b", "gap-matrix-tiny--c-d"}


def test_robustness_lists_original_metric_and_drops(results: StudyResults):
    text = "\n".join(robustness_section(results).lines)
    original = results.estimate("hybrid", "tiny/multi/map").mean
    drop = results.estimate("hybrid", "drop/tiny/multi/map").mean
    assert f"| hybrid | {original:.4f} ±" in text
    assert f"{drop:.4f} ±" in text


def test_robustness_lists_how_much_rank_distance_rises(results: StudyResults):
    config = results.config.model_copy(update={"measures": ("tiny/multi/rank_distance",)})
    text = "\n".join(robustness_section(StudyResults(config, results.folder)).lines)
    rise = results.estimate("hybrid", "drop/tiny/multi/rank_distance")
    assert f"| {format_estimate('tiny/multi/rank_distance', rise)} |" in text


def test_gap_lists_all_languages_and_their_mean(results: StudyResults):
    rows = [line.split(" | ") for line in gap_section(results).lines if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == ["language", "all", "all, pools of one size", "de", "en", "sw"]
    assert rows[1][1:] == rows[2][1:]  # each language has as many passages
    gaps = [results.estimate("x-y", f"tiny/gap/map/{language}").mean for language in ("de", "en", "sw")]
    assert results.estimate("x-y", "tiny/gap/map").mean == pytest.approx(np.mean(gaps))


def test_change_of_recall_has_the_pairs_of_a_language_with_a_hyphen(monkeypatch: pytest.MonkeyPatch):
    recall = {"x-y": {"en-zh-TW": 0.25, "zh-TW-en": 0.5}, "hybrid": {"en-zh-TW": 0.5, "zh-TW-en": 0.25}}
    stub: Any = SimpleNamespace(
        methods=["x-y", "hybrid"],
        config=SimpleNamespace(reference="hybrid"),
        languages=lambda _: ["de", "en", "zh-TW"],
        reported=lambda method, metric: [recall[method][metric.rpartition("/")[2]]],
    )
    drawn: list[Any] = []
    monkeypatch.setattr(optional_sections, "change_figure", lambda *given: drawn.extend(given))
    optional_sections._add_recall_change(ReportSection("Alignment"), stub, "tiny", ["en-zh-TW", "zh-TW-en"])
    _, languages, change, _ = drawn
    assert languages == ["en", "zh-TW"]
    assert np.array_equal(change, [[np.nan, 0.25], [-0.25, np.nan]], equal_nan=True)
