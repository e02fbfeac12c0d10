"""The figures of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hbt_ray.study.results import Estimate
from hbt_ray.utils.plotting import (
    ACCENT,
    DARK,
    MUTED,
    add_colour_bar,
    draw_heat_map,
    hide_spines,
    label_cells,
    new_figure,
    new_panels,
)

_COLOURS = matplotlib.color_sequences["tab10"]
_MARKERS = "os^Dvph*XP"
_MAX_LABELLED_LANGUAGES = 20  # above it the cells are too small for numbers


def change_figure(title: str, languages: Sequence[str], change: np.ndarray, metric: str = "mAP") -> Figure:
    """Draw the difference of a metric by question language (rows) and passage language (columns).

    Red cells are lower, blue ones higher.

    Args:
        title: of the figure.
        languages: L languages.
        change: (L, L); NaN for a pair without a value.
        metric: what changes, for the colour bar.
    """
    side = max(2.4 + 0.5 * len(languages), 5.0)
    figure, axes = new_figure(side + 1.0, side)
    limit = float(np.nanmax(np.abs(change), initial=1e-6))
    image = draw_heat_map(axes, change, columns=languages, rows=languages, cmap="RdBu", vmin=-limit, vmax=limit)
    axes.tick_params(axis="x", rotation=90 if len(languages) > _MAX_LABELLED_LANGUAGES else 0)
    axes.set_xlabel("passage language")
    axes.set_ylabel("question language")
    if len(languages) <= _MAX_LABELLED_LANGUAGES:
        label_cells(axes, change, lambda value: f"{100 * value:+.0f}", lambda value: abs(value) > 0.6 * limit)
    label = f"change of {metric}" + (", numbers in hundredths" if len(languages) <= _MAX_LABELLED_LANGUAGES else "")
    add_colour_bar(axes, image, label=label)
    axes.set_title(title, loc="left", pad=12, fontsize=10.5)
    return figure


def scatter_figure(
    title: str, x_label: str, y_label: str, points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Draw points (x, y) in a colour and marker for each label."""
    figure, axes = new_figure(7.6, 4.6)
    for number, (label, (x, y)) in enumerate(points.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.scatter(x, y, s=30, alpha=0.75, label=label, linewidths=0, color=colour, marker=marker)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    hide_spines(axes, "top", "right")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(title, loc="left", fontsize=10.5)
    return figure


def bars_figure(title: str, label: str, values: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Draw a panel of bars with confidence intervals for each group.

    Args:
        title: of the figure.
        label: of the x axes.
        values: panel -> bar -> estimate.
    """
    bars = list(dict.fromkeys(bar for estimates in values.values() for bar in estimates))
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    size = (1.9 + 2.7 * columns, rows * (1.2 + 0.3 * len(bars)))
    figure, panels = new_panels(len(values), columns, size, sharex=True, sharey=True)
    for panel, (heading, estimates) in zip(panels, values.items(), strict=True):
        means = [estimates[bar].mean if bar in estimates else 0.0 for bar in bars]
        widths = [(estimates[bar].half_width or 0.0) if bar in estimates else 0.0 for bar in bars]
        panel.barh(bars, means, xerr=widths, color=ACCENT, height=0.62, error_kw={"ecolor": DARK, "elinewidth": 1})
        panel.axvline(0, color=MUTED, linewidth=0.8)
        panel.set_title(heading, fontsize=9.5, loc="left")
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelbottom=True)
        hide_spines(panel, "top", "right", "left")
    panels[0].invert_yaxis()
    figure.supxlabel(label, fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def lines_figure(
    title: str,
    x_label: str,
    lines: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]],
    levels: Mapping[str, Mapping[str, float]],
    *,
    log_x: bool = False,
) -> Figure:
    """Draw a panel for each metric: lines through estimates, with their intervals.

    Args:
        title: of the figure.
        x_label: of all panels.
        lines: panel -> line -> (x, estimate) of each point. The lines of all panels are the same.
        levels: panel -> name -> value of a dashed horizontal line.
        log_x: whether the x axis is logarithmic.
    """
    columns = min(3, len(lines))
    rows = -(-len(lines) // columns)
    figure, panels = new_panels(len(lines), columns, (3.4 * columns, 2.6 * rows + 0.4), sharex=True)
    for axes, (metric, curves) in zip(panels, lines.items(), strict=True):
        for number, (label, points) in enumerate(curves.items()):
            x = [value for value, _ in points]
            y = np.array([estimate.mean for _, estimate in points])
            half = np.array([estimate.half_width or 0.0 for _, estimate in points])
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(x, y, color=colour, marker=_MARKERS[number % len(_MARKERS)], label=label)
            axes.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
        for number, (name, level) in enumerate(levels.get(metric, {}).items(), start=len(curves)):
            axes.axhline(level, color=_COLOURS[number % len(_COLOURS)], linestyle="--", linewidth=1.2, label=name)
        if log_x:
            axes.set_xscale("log", base=2)
        ticks = sorted({value for points in curves.values() for value, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.tick_params(labelbottom=True)
        axes.grid(color="#eeeeee")
        hide_spines(axes, "top", "right")
        axes.set_title(metric, loc="left", fontsize=9.5)
        if len(curves) > 1 or levels.get(metric):
            axes.legend(frameon=False, fontsize=8.5)
    figure.supxlabel(x_label, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure
