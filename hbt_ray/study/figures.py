"""A study's figures."""

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
_CROWDED = 20  # languages above which a cell is too small for its number


def change_figure(title: str, languages: Sequence[str], change: np.ndarray, measure: str = "mAP") -> Figure:
    """A difference of a measure by question language (rows) and passage language (columns): red is less, blue more."""
    side = max(2.4 + 0.5 * len(languages), 5.0)
    figure, axes = new_figure(side + 1.0, side)
    widest = float(np.nanmax(np.abs(change), initial=1e-6))
    image = draw_heat_map(axes, change, columns=languages, rows=languages, cmap="RdBu", vmin=-widest, vmax=widest)
    axes.tick_params(axis="x", rotation=90 if len(languages) > _CROWDED else 0)
    axes.set_xlabel("passage language")
    axes.set_ylabel("question language")
    if len(languages) <= _CROWDED:
        label_cells(axes, change, lambda value: f"{100 * value:+.0f}", lambda value: abs(value) > 0.6 * widest)
    label = f"change of {measure}" + (", numbers in hundredths" if len(languages) <= _CROWDED else "")
    add_colour_bar(axes, image, label=label)
    axes.set_title(title, loc="left", pad=12, fontsize=10.5)
    return figure


def scatter_figure(
    title: str, across: str, up: str, points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """A cloud of points for each label."""
    figure, axes = new_figure(7.6, 4.6)
    for number, (label, (x, y)) in enumerate(points.items()):
        axes.scatter(
            x, y, s=30, alpha=0.75, label=label, linewidths=0,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    hide_spines(axes, "top", "right")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(title, loc="left", fontsize=10.5)
    return figure


def bars_figure(title: str, label: str, values: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """A panel for each group of bars, with an interval on each bar: panel -> bar -> estimate."""
    bars = list(dict.fromkeys(bar for own in values.values() for bar in own))
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    size = (1.9 + 2.7 * columns, rows * (1.2 + 0.3 * len(bars)))
    figure, panels = new_panels(len(values), columns, size, sharex=True, sharey=True)
    for panel, (heading, own) in zip(panels, values.items(), strict=True):
        means = [own[bar].mean if bar in own else 0.0 for bar in bars]
        widths = [(own[bar].half_width or 0.0) if bar in own else 0.0 for bar in bars]
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
    across: str,
    lines: Mapping[str, Sequence[tuple[float, Estimate]]],
    levels: Mapping[str, Mapping[str, float]],
) -> Figure:
    """A panel for each label with a line through its points and their intervals; each tick is twice the one before.

    Args:
        levels: label -> what is drawn across its panel, dashed, by name.
    """
    columns = min(3, len(lines))
    rows = -(-len(lines) // columns)
    figure, panels = new_panels(len(lines), columns, (3.4 * columns, 2.6 * rows + 0.4), sharex=True)
    for axes, (label, points) in zip(panels, lines.items(), strict=True):
        x = [place for place, _ in points]
        y = np.array([own.mean for _, own in points])
        half = np.array([own.half_width or 0.0 for _, own in points])
        axes.plot(x, y, color=_COLOURS[0], marker=_MARKERS[0])
        axes.fill_between(x, y - half, y + half, color=_COLOURS[0], alpha=0.15, linewidth=0)
        for number, (name, level) in enumerate(levels.get(label, {}).items(), start=1):
            axes.axhline(level, color=_COLOURS[number % len(_COLOURS)], linestyle="--", linewidth=1.2, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{tick:g}" for tick in x])
        axes.tick_params(labelbottom=True)
        axes.grid(color="#eeeeee")
        hide_spines(axes, "top", "right")
        axes.set_title(label, loc="left", fontsize=9.5)
        if levels.get(label):
            axes.legend(frameon=False, fontsize=8.5)
    figure.supxlabel(across, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure
