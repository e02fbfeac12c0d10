"""The page of a search: the choice, all configurations, the objectives by setting, and every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from hbt_ray import __version__
from hbt_ray.config import dump_config, flatten_settings, stored_settings
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.objectives import find_objective_metric, scaled_objective
from hbt_ray.search.results import CandidateResult, SearchResults, Trial, best_config, objective_values
from hbt_ray.search.tables import benchmark_rows, format_spread
from hbt_ray.utils.html_page import PAGE, Cell, Rows, image_source, render_page
from hbt_ray.utils.redaction import redacted_value

_FIGURE_TITLES = {
    "objectives.png": "The objectives by setting",
    "pareto.png": "Two objectives against each other, and the Pareto front",
    "bias.png": "Rank distance by question language and setting",
    "schedule.png": "The schedule of mixtures",
}


def write_search_page(
    search: SearchConfig,
    results: SearchResults,
    trials: Sequence[Trial],
    figures: Sequence[Path],
    folder: Path,
    *,
    passages: int,
    fingerprints: Mapping[str, str],
) -> Path:
    """Write `report.html`: one file that loads nothing. Like the search's other files it depends on the trials only.

    Args:
        search: its settings.
        results: of the search.
        trials: all of them.
        figures: the files that `write_figures` wrote.
        folder: of the page.
        passages: of the dev set.
        fingerprints: of the dev set and of the benchmarks, by name.

    Returns:
        The file.
    """
    names = list(search.objectives)
    text = render_page(
        "hbt_ray.search",
        "search.html.jinja",
        title=f"Search: {search.run.name}",
        search=search,
        results=results,
        tiles=[
            (display_name(name), format_spread(name, results.best.mean.get(name), 0.0), _direction(name))
            for name in names
        ],
        num_trials=len(trials),
        headings=["configuration", *map(display_name, names), "score", "role"],
        configurations=[_configuration_row(names, result, results, passages) for result in results.ranked],
        figures=[(image_source(file), _FIGURE_TITLES[file.name]) for file in figures],
        tests=list(benchmark_rows(results)),
        trials=_trials_table(search, trials),
        settings=_settings(search, fingerprints),
        best=Markup(escape(dump_config(best_config(search, results.best, trials)))),
    )
    (folder / PAGE).write_text(text, encoding="utf-8")
    return folder / PAGE


def _direction(name: str) -> str:
    return "higher is better" if find_objective_metric(name).higher_is_better else "lower is fairer"


def _configuration_row(
    names: Sequence[str], result: CandidateResult, results: SearchResults, passages: int
) -> list[str | Cell]:
    """Return a row with a bar for each objective: its value on the scale of 0 to 1 of which more is better."""
    cells: list[str | Cell] = [result.name]
    for name in names:
        mean = result.mean.get(name)
        bar = scaled_objective(name, mean, passages)
        shown = format_spread(name, mean, result.deviation.get(name, 0.0))
        cells.append(Cell(text=shown, bar=min(max(bar, 0.0), 1.0)))
    is_best = result.name == results.best.name
    roles = results.roles_of(result) + (["front"] if result.on_front else [])
    return [*cells, Cell(text=f"{result.score:.4f}", is_best=is_best), ", ".join(roles)]


def _trials_table(search: SearchConfig, trials: Sequence[Trial]) -> tuple[list[str], Rows]:
    """Return headings and rows of the trials, with the objectives of their last evaluation."""
    rows: Rows = []
    for trial in sorted(trials, key=lambda trial: trial.name):
        values = objective_values(search, trial.metrics) if trial.evaluations else {}
        cells = [format_spread(name, values.get(name), 0.0) for name in search.objectives]
        rows.append([trial.name, str(trial.seed), trial.state, f"{trial.step:,}", *cells, trial.reason])
    return ["trial", "seed", "state", "step", *map(display_name, search.objectives), "reason"], rows


def _settings(search: SearchConfig, fingerprints: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the settings of the search, what its runs have in common, and the data."""
    weights = ", ".join(f"{display_name(name)} × {weight:g}" for name, weight in search.objectives.items())
    shared = flatten_settings(stored_settings(search.run))
    listed = ("model.path", "mix.strategy", "train.steps", "train.global_batch_pairs", "train.learning_rate")
    return [
        ("algorithm", search.algorithm),
        ("searched", ", ".join(search.space)),
        ("seeds", ", ".join(map(str, search.seeds))),
        ("objectives and weights", weights),
        ("chosen on", search.dev_name),
        *((name, f"fingerprint {fingerprint}") for name, fingerprint in fingerprints.items()),
        *((key, redacted_value(key, shared[key])) for key in listed if key not in search.space and shared.get(key)),
        *([] if search.run.model.path else [("model", "random weights")]),
        ("hbt_ray version", __version__),
    ]
