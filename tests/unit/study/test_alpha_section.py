"""Metrics over alpha: which methods have one, and the table and figure of them."""

from __future__ import annotations

import pytest

from hbt_ray.study.alpha_section import alpha_of, alpha_section
from hbt_ray.study.config import Method, StudyConfig
from hbt_ray.study.report_sections import format_estimate
from hbt_ray.study.results import StudyResults
from tests.unit.study.example_study import SETTINGS


@pytest.mark.parametrize(
    ("method", "alpha"),
    [
        ({}, 0.5),
        ({"settings": {"mix.alpha": 0.3, "train.steps": 7}}, 0.3),
        ({"settings": {"mix.strategy": "x-x-mono"}}, 1.0),
        ({"settings": {"mix.strategy": "x-y"}}, 0.0),
        ({"settings": {"mix.strategy": "x-x"}}, None),
        ({"settings": {"mix.alpha": 0.3, "loss.symmetric": True}}, None),
        ({"trained": False}, None),
        ({"taught_by": "hybrid"}, None),
    ],
)
def test_alpha_of_a_method_that_differs_in_it_only(method: dict[str, object], alpha: float | None):
    assert alpha_of(StudyConfig.model_validate(SETTINGS), Method.model_validate(method)) == alpha


def test_section_has_a_row_for_each_number_of_steps(results: StudyResults):
    section = alpha_section(results)
    metric, steps = results.config.measures[0], results.config.run.train.steps
    of_alpha = [format_estimate(metric, results.estimate(method, metric)) for method in ("x-y", "hybrid")]
    assert f"| {steps:,} | {of_alpha[0]} | {of_alpha[1]} |" in section.lines
    assert "| steps | alpha 0 | alpha 0.5 |" in section.lines
    axes = section.figures["alpha"].axes[0]
    assert [line.get_label() for line in axes.lines] == [f"{steps:,} steps", "untrained"]
    assert list(axes.lines[0].get_xdata()) == [0.0, 0.5]
