"""Figures of a search: objectives over a setting, Pareto front, rank distance by language, the schedule of mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.retrieval_metrics import LEVELS, WORST_TENTH
from hbt_ray.search.algorithms import ALGORITHMS
from hbt_ray.search.config import SearchConfig
from hbt_ray.search.objectives import find_objective_metric
from hbt_ray.search.results import SearchResults, Trial, finished_trials, objective_values
from hbt_ray.utils.plotting import (
    ACCENT,
    DARK,
    MUTED,
    WARM,
    add_colour_bar,
    draw_heat_map,
    hide_spines,
    label_cells,
    new_figure,
    new_panels,
    save_figure,
)

CONFIDENCE = 0.95
FILES = ("objectives.png", "pareto.png", "bias.png", "schedule.png")


def write_figures(search: SearchConfig, results: SearchResults, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Write the figures that the search has data for, and return their files.

    `objectives.png` and `bias.png` over the first searched setting that is a number, with the choice's values of the
    others, `pareto.png` and `schedule.png`.
    """
    figures = (
        objectives_figure(search, results, trials),
        pareto_figure(search, results),
        bias_figure(search, results, trials),
        schedule_figure(search, results, trials),
    )
    written = []
    for name, figure in zip(FILES, figures, strict=True):
        if figure is not None:
            save_figure(figure, folder / name)
            written.append(folder / name)
    return written


def _trials_by_setting(
    search: SearchConfig, results: SearchResults, trials: Sequence[Trial]
) -> tuple[str, list[Trial]] | None:
    """Return a searched setting and the finished trials that have the other values of the choice.

    The first setting, alpha before any other, whose values among these trials are numbers and differ. None: there is no
    such, or an algorithm changes the values while a trial trains.
    """
    if ALGORITHMS[search.algorithm].changes_values_during_training:
        return None
    for key in sorted(search.space, key=lambda key: key != "mix.alpha"):
        found = [
            trial
            for trial in finished_trials(trials)
            if {**trial.candidate.values, key: None} == {**results.best.values, key: None}
        ]
        values = [trial.candidate.values.get(key) for trial in found]
        if all(isinstance(value, int | float) for value in values) and len(set(values)) > 1:
            return key, found
    return None


def objectives_figure(search: SearchConfig, results: SearchResults, trials: Sequence[Trial]) -> Figure | None:
    """Draw every objective over a numeric setting: each trial, the mean over seeds and its 95% confidence band.

    Of the trials with the choice's values of other settings.
    """
    found = _trials_by_setting(search, results, trials)
    if found is None:
        return None
    setting, finished = found
    count = len(search.objectives)
    columns = 2 if count > 1 else 1
    figure, panels = new_panels(count, columns, (4.6 * columns, 0.6 + 2.9 * -(-count // columns)))
    for panel, objective in zip(panels, search.objectives, strict=True):
        by_value: dict[float, list[float]] = {}
        for trial in finished:
            value = objective_values(search, trial.metrics).get(objective)
            if value is not None:
                by_value.setdefault(float(trial.candidate.values[setting]), []).append(value)
        _band(panel, by_value)
        panel.axvline(float(results.best.values[setting]), color=WARM, linewidth=1, linestyle=(0, (4, 3)))
        _label_panel(panel, setting, objective)
    short_name, seeds = _short_name(setting), len(search.seeds)
    figure.suptitle(
        f"{search.dev_name} over {short_name}: "
        + (f"mean over {seeds} seeds with its 95% confidence band" if seeds > 1 else "mean over 1 seed")
        + f"; dashed: the choice, {short_name} {results.best.values[setting]:g}"
        + ("\nother settings as in the choice" if len(search.space) > 1 else ""),
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _band(panel: Axes, by_value: dict[float, list[float]]) -> None:
    values = sorted(by_value)
    means = np.array([np.mean(by_value[value]) for value in values])
    for value in values:
        panel.scatter([value] * len(by_value[value]), by_value[value], s=14, color=MUTED, linewidths=0, zorder=2)
    panel.plot(values, means, color=ACCENT, linewidth=1.8, marker="o", markersize=4.5, zorder=3)
    half = half_widths([by_value[value] for value in values])
    if half.any():
        panel.fill_between(values, means - half, means + half, color=ACCENT, alpha=0.15, linewidth=0, zorder=1)


def half_widths(samples: Sequence[Sequence[float]]) -> np.ndarray:
    """Return half the width of the 95% confidence interval of each sample's mean; 0 if no sample has two values.

    Student's t with the standard deviation pooled over the samples, as in an analysis of variance, because the
    deviation of a few seeds is a poor estimate.

    >>> half_widths([[1, 3], [2, 4]]).round(4).tolist()  # t of 2 degrees of freedom times sqrt(2) / sqrt(2)
    [4.3027, 4.3027]
    """
    freedom = sum(len(sample) - 1 for sample in samples)
    if not freedom:
        return np.zeros(len(samples))
    squares = sum(float(np.square(np.asarray(sample) - np.mean(sample)).sum()) for sample in samples)
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * (squares / freedom) ** 0.5
    return factor / np.sqrt([len(sample) for sample in samples])


def _label_panel(panel: Axes, setting: str, objective: str) -> None:
    metric = find_objective_metric(objective)
    panel.set_xlabel(_short_name(setting))
    arrow = "higher is better" if metric.higher_is_better else "lower is fairer"
    panel.set_title(f"{display_name(objective)} ({arrow})", loc="left", fontsize=10, color=DARK)
    low, high = panel.get_ylim()
    if metric.unit == "ranks" and high - low > 10:
        panel.yaxis.set_major_formatter("{x:,.0f}")
    hide_spines(panel, "top", "right")
    panel.margins(x=0.04)


def pareto_figure(search: SearchConfig, results: SearchResults) -> Figure | None:
    """Draw the first two objectives against each other, with the last as colour, and mark the Pareto front."""
    names = list(search.objectives)
    if len(names) < 2 or len(results.ranked) < 2:
        return None
    across, up = names[:2]
    shade = names[-1] if len(names) > 2 else None
    figure, axes = new_figure(7.4, 5.2)
    x, y = ([result.mean[name] for result in results.ranked] for name in (across, up))
    colours = [result.mean[shade] for result in results.ranked] if shade else ACCENT
    dots = axes.scatter(x, y, c=colours, cmap="viridis_r" if shade else None, s=70, zorder=3, linewidths=0)
    front = sorted((result.mean[across], result.mean[up]) for result in results.ranked if result.on_front)
    front_x, front_y = zip(*front, strict=True)
    axes.scatter(front_x, front_y, s=150, facecolors="none", edgecolors=DARK, linewidths=1.1, zorder=4)
    for result in results.ranked:
        roles = results.roles_of(result)
        label = result.name + (f" ({', '.join(roles)})" if roles else "")
        axes.annotate(
            label,
            (result.mean[across], result.mean[up]),
            xytext=(9, 5),
            textcoords="offset points",
            fontsize=8.5,
            color=WARM if roles else DARK,
        )
    if shade:
        add_colour_bar(axes, dots, label=display_name(shade))
    axes.set_xlabel(display_name(across))
    axes.set_ylabel(display_name(up))
    axes.margins(x=0.18, y=0.12)
    hide_spines(axes, "top", "right")
    axes.set_title("Ringed: no other configuration is as good in everything", loc="left", fontsize=11, color=DARK)
    return figure


def bias_figure(search: SearchConfig, results: SearchResults, trials: Sequence[Trial]) -> Figure | None:
    """Draw the rank distance of each query language over a numeric setting, of the trials of `objectives_figure`."""
    found = _trials_by_setting(search, results, trials)
    if found is None:
        return None
    setting, finished = found
    start = f"{search.dev_name}/multi/rank_distance/"
    languages = sorted(
        {name.removeprefix(start) for trial in finished for name in trial.metrics if name.startswith(start)}
    )
    languages = [language for language in languages if language not in (*LEVELS, WORST_TENTH)]
    if not languages:
        return None
    values = sorted({float(trial.candidate.values[setting]) for trial in finished})
    means = np.array(
        [
            [
                np.mean([t.metrics[start + language] for t in finished if float(t.candidate.values[setting]) == value])
                for value in values
            ]
            for language in languages
        ]
    )
    figure, axes = new_figure(2.4 + 0.8 * len(values), 1.9 + 0.27 * len(languages))
    labels = [f"{value:g}" for value in values]
    image = draw_heat_map(axes, means, columns=labels, rows=languages, vmin=0, aspect="auto")
    axes.set_xlabel(_short_name(setting))
    axes.set_ylabel("question language")
    middle = means.max() * 0.55
    label_cells(axes, means, lambda value: f"{value:,.0f}", lambda value: value > middle)
    add_colour_bar(axes, image, fraction=0.05)
    axes.set_title("Rank distance (lower is fairer)", loc="left", fontsize=11, color=DARK)
    return figure


def schedule_figure(search: SearchConfig, results: SearchResults, trials: Sequence[Trial]) -> Figure | None:
    """Draw the schedule of the choice over batches: a panel for each searched setting, shares stacked."""
    mixtures = next((trial.mixtures for trial in trials if trial.name == results.best.name), ())
    if not mixtures:
        return None
    last = search.run.train.steps * search.run.train.gradient_accumulation
    batches = [batch for batch, _ in mixtures] + [last]
    figure, panels = new_panels(len(search.space), 1, (7.4, 0.4 + 2.4 * len(search.space)))
    for panel, key in zip(panels, search.space, strict=True):
        values = [values[key] for _, values in mixtures]
        if isinstance(values[0], dict):
            shares = [[value[name] / sum(value.values()) for value in values] for name in values[0]]
            panel.stackplot(
                batches, [[*share, share[-1]] for share in shares], step="post", labels=list(values[0]), linewidth=0
            )
            panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            panel.step(batches, [*values, values[-1]], where="post", color=ACCENT, linewidth=2)
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlabel("batch")
        hide_spines(panel, "top", "right")
        panel.set_title(f"{_short_name(key)} of the choice, {results.best.name}", loc="left", fontsize=11, color=DARK)
    return figure


def _short_name(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")
