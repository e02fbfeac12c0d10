"""What came of a search, as a person reads it in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import format_value, headlines
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import Result, SearchResults, mean_and_deviation


def outcome_tables(search: SearchConfig, outcome: SearchResults) -> Iterator[Table]:
    """Every configuration on the dev set, the choice first; then the chosen ones on each test benchmark."""
    table = Table(title=f"{search.dev_name}, {outcome.steps:,} optimizer steps in all")
    for heading in ("configuration", *map(display_name, search.objectives), "score", ""):
        words = heading in ("configuration", "")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading == "configuration")
    for result in outcome.results:
        cells = [_cell(name, result.mean.get(name), result.deviation.get(name, 0.0)) for name in search.objectives]
        table.add_row(result.name, *cells, f"{result.score:.4f}", ", ".join(_roles(outcome, result)))
    yield table
    for benchmark in dict.fromkeys(name.partition("/")[0] for own in outcome.test.values() for name in own):
        yield _test_table(outcome, benchmark)


def _roles(outcome: SearchResults, result: Result) -> list[str]:
    roles = [role for role, own in (("choice", outcome.best), ("knee", outcome.knee)) if own.name == result.name]
    return roles + (["front"] if result.on_front else [])


def _test_table(outcome: SearchResults, benchmark: str) -> Table:
    shown = {
        f"{benchmark}/{setting}/{measure}": heading
        for (setting, measure), heading in headlines(benchmark).items()
        if any(f"{benchmark}/{setting}/{measure}" in own for own in outcome.test.values())
    }
    table = Table(title=f"{benchmark}, of the chosen alone")
    table.add_column("configuration", no_wrap=True)
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for name, own in outcome.test.items():
        measured = (mean_and_deviation(own[metric]) if metric in own else (None, 0.0) for metric in shown)
        table.add_row(name, *(_cell(metric, *values) for metric, values in zip(shown, measured, strict=True)))
    return table


def _cell(metric: str, mean: float | None, deviation: float) -> str:
    named = metric if metric.count("/") > 1 else f"/{metric}"
    return format_value(named, mean) + (f" ±{format_value(named, deviation)}" if deviation else "")
