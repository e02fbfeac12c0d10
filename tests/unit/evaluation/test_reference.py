"""The README's table of metrics is the registry's."""

from __future__ import annotations

from hbt_ray.evaluation.reference import reference
from tests.helpers.paths import REPOSITORY


def test_metrics_table_is_printed_from_the_registry():
    readme = (REPOSITORY / "hbt_ray/evaluation/README.md").read_text(encoding="utf-8")
    written = readme.partition("<!-- metrics -->\n\n")[2].partition("\n<!-- /metrics -->")[0]
    assert written == reference(), "python -m hbt_ray.evaluation.reference prints it"
