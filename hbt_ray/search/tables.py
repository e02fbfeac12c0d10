"""The results of a search as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import format_value, headlines
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.results import SearchResults, mean_and_deviation


def result_tables(search: SearchConfig, results: SearchResults) -> Iterator[Table]:
    """Yield a table of all candidates on the dev set, then one of the chosen ones for each test benchmark."""
    table = Table(title=f"{search.dev_name}, {results.steps:,} optimizer steps in all")
    for heading in ("configuration", *map(display_name, search.objectives), "score", ""):
        is_text = heading in ("configuration", "")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading == "configuration")
    for result in results.ranked:
        cells = [_cell(name, result.mean.get(name), result.deviation.get(name, 0.0)) for name in search.objectives]
        roles = results.roles_of(result) + (["front"] if result.on_front else [])
        table.add_row(result.name, *cells, f"{result.score:.4f}", ", ".join(roles))
    yield table
    for benchmark in dict.fromkeys(name.partition("/")[0] for metrics in results.test.values() for name in metrics):
        yield _test_table(results, benchmark)


def _test_table(results: SearchResults, benchmark: str) -> Table:
    shown = {
        f"{benchmark}/{setting}/{metric}": heading
        for (setting, metric), heading in headlines(benchmark).items()
        if any(f"{benchmark}/{setting}/{metric}" in metrics for metrics in results.test.values())
    }
    table = Table(title=f"{benchmark}, only the chosen configurations")
    table.add_column("configuration", no_wrap=True)
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for name, metrics in results.test.items():
        spreads = (mean_and_deviation(metrics[metric]) if metric in metrics else (None, 0.0) for metric in shown)
        table.add_row(name, *(_cell(metric, *spread) for metric, spread in zip(shown, spreads, strict=True)))
    return table


def _cell(metric: str, mean: float | None, deviation: float) -> str:
    full_name = metric if metric.count("/") > 1 else f"/{metric}"
    return format_value(full_name, mean) + (f" ±{format_value(full_name, deviation)}" if deviation else "")
