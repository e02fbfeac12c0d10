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
        cells = [
            format_spread(name, result.mean.get(name), result.deviation.get(name, 0.0)) for name in search.objectives
        ]
        roles = results.roles_of(result) + (["front"] if result.on_front else [])
        table.add_row(result.name, *cells, f"{result.score:.4f}", ", ".join(roles))
    yield table
    for benchmark, headings, rows in benchmark_rows(results):
        table = Table(title=f"{benchmark}, only the chosen configurations")
        for heading in headings:
            is_text = heading == headings[0]
            table.add_column(heading, justify="left" if is_text else "right", no_wrap=is_text)
        for row in rows:
            table.add_row(*row)
        yield table


def benchmark_rows(results: SearchResults) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the name of each test benchmark, with headings and rows: the headline metrics of the chosen candidates."""
    for benchmark in dict.fromkeys(name.partition("/")[0] for metrics in results.test.values() for name in metrics):
        shown = {
            f"{benchmark}/{setting}/{metric}": heading
            for (setting, metric), heading in headlines(benchmark).items()
            if any(f"{benchmark}/{setting}/{metric}" in metrics for metrics in results.test.values())
        }
        rows = []
        for name, metrics in results.test.items():
            spreads = (mean_and_deviation(metrics[metric]) if metric in metrics else (None, 0.0) for metric in shown)
            rows.append([name, *(format_spread(m, *spread) for m, spread in zip(shown, spreads, strict=True))])
        yield benchmark, ["configuration", *shown.values()], rows


def format_spread(metric: str, mean: float | None, deviation: float) -> str:
    """Format the mean of a metric or objective over seeds, with the standard deviation unless that is 0."""
    full_name = metric if metric.count("/") > 1 else f"/{metric}"
    return format_value(full_name, mean) + (f" ±{format_value(full_name, deviation)}" if deviation else "")
