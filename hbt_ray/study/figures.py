"""A study's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hbt_ray.study.results import Estimate
from hbt_ray.utils.plotting import ACCENT, DARK, MUTED

_COLOURS = matplotlib.color_sequences["tab10"]
_MARKERS = "os^Dvph*XP"
_CROWDED = 20  # languages above which a cell is too small for its number


def change_figure(title: str, languages: Sequence[str], change: np.ndarray, measure: str = "mAP") -> Figure:
    """A difference of a measure by question language (rows) and passage language (columns): red is less, blue more."""
    side = max(2.4 + 0.5 * len(languages), 5.0)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    widest = float(np.nanmax(np.abs(change), initial=1e-6))
    colours = matplotlib.colormaps["RdBu"].with_extremes(bad="#eeeeee")
    image = axes.imshow(np.ma.masked_invalid(change), cmap=colours, vmin=-widest, vmax=widest)
    axes.set_xticks(range(len(languages)), languages, rotation=90 if len(languages) > _CROWDED else 0)
    axes.set_yticks(range(len(languages)), languages)
    axes.set_xlabel("passage language")
    axes.set_ylabel("question language")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(languages) <= _CROWDED:
        for (row, column), value in np.ndenumerate(change):
            if not np.isnan(value):
                strong = abs(value) > 0.6 * widest
                axes.text(
                    *(column, row, f"{100 * value:+.0f}"), ha="center", va="center", fontsize=8,
                    color="white" if strong else DARK,
                )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label(f"change of {measure}" + (", numbers in hundredths" if len(languages) <= _CROWDED else ""))
    bar.outline.set_visible(False)
    axes.set_title(title, loc="left", pad=12, fontsize=10.5)
    return figure


def scatter_figure(
    title: str, across: str, up: str, points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """A cloud of points for each label."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, (label, (x, y)) in enumerate(points.items()):
        axes.scatter(
            x, y, s=30, alpha=0.75, label=label, linewidths=0,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(title, loc="left", fontsize=10.5)
    return figure


def bars_figure(title: str, label: str, values: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """A panel for each group of bars, with an interval on each bar: panel -> bar -> estimate."""
    bars = list(dict.fromkeys(bar for own in values.values() for bar in own))
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(1.9 + 2.7 * columns, rows * (1.2 + 0.3 * len(bars))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
    for panel in panels[len(values) :]:
        panel.set_visible(False)
    for panel, (heading, own) in zip(panels, values.items(), strict=False):
        means = [own[bar].mean if bar in own else 0.0 for bar in bars]
        widths = [(own[bar].half_width or 0.0) if bar in own else 0.0 for bar in bars]
        panel.barh(bars, means, xerr=widths, color=ACCENT, height=0.62, error_kw={"ecolor": DARK, "elinewidth": 1})
        panel.axvline(0, color=MUTED, linewidth=0.8)
        panel.set_title(heading, fontsize=9.5, loc="left")
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelbottom=True)
        panel.spines[["top", "right", "left"]].set_visible(False)
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
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (label, points) in zip(panels, lines.items(), strict=False):
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
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(label, loc="left", fontsize=9.5)
        if levels.get(label):
            axes.legend(frameon=False, fontsize=8.5)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    figure.supxlabel(across, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure
