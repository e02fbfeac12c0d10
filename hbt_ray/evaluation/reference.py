"""Print the table of all metrics from the registry, as Markdown: `python -m hbt_ray.evaluation.reference`."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.evaluation.metrics import METRICS, SETTINGS
from hbt_ray.evaluation.report import markdown_table

_HEADINGS = ("metric", "of a query", "unit", "better", "settings", "also by language or pair", "column", "mteb")


def reference() -> str:
    """Return a table with a row for each metric, in the order of the registry."""
    rows = [
        [
            f"`{metric.name}`",
            " ".join(str(metric.compute.__doc__).split()).removeprefix("Compute ").removesuffix("."),
            metric.unit,
            "higher" if metric.higher_is_better else "lower",
            _settings(metric.settings),
            _settings(metric.by_language),
            f"`{metric.column}`",
            "" if metric.mteb is None else f"`{metric.mteb}`",
        ]
        for metric in METRICS.values()
    ]
    return "\n".join(markdown_table(_HEADINGS, rows)) + "\n"


def _settings(settings: Sequence[str]) -> str:
    return "all" if tuple(settings) == SETTINGS else ", ".join(settings)


if __name__ == "__main__":
    print(reference(), end="")
