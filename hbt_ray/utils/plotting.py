"""Shared parts of figures: colours, panels, heat maps, and saving without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hbt_ray.utils.atomic_write import atomic_file

DARK, ACCENT, MUTED, WARM = "#20303c", "#2f6f9f", "#9fb3c1", "#e0503c"
_NO_VALUE = "#eeeeee"


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of width x height inches with one panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def new_panels(
    count: int, columns: int, size: tuple[float, float], *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its first `count` panels in a grid; the remaining cells of the last row stay empty.

    Args:
        count: panels.
        columns: of the grid.
        size: width and height of the figure, inches.
        sharex: all panels have one x axis.
        sharey: all panels have one y axis.
    """
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for panel in grid[count:]:
        panel.set_visible(False)
    return figure, list(grid[:count])


def save_figure(
    figure: Figure,
    path: Path,
    *,
    dpi: int = 150,
    bbox_inches: Literal["tight"] | None = None,
    metadata: Mapping[str, str | None] | None = None,
) -> None:
    """Write a figure as a PNG file. The options are those of `Figure.savefig`."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, bbox_inches=bbox_inches, metadata=metadata)


def hide_spines(axes: Axes, *sides: str) -> None:
    """Hide the lines at some sides of a panel; at all sides if none is named."""
    axes.spines[list(sides) if sides else slice(None)].set_visible(False)


def draw_heat_map(
    axes: Axes,
    values: np.ndarray,
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    cmap: str = "YlGnBu",
    vmin: float | None = None,
    vmax: float | None = None,
    aspect: Literal["equal", "auto"] = "equal",
) -> AxesImage:
    """Draw values (rows, columns) as coloured cells with a label for each row and column; cells of NaN are grey.

    The options are those of `Axes.imshow`.
    """
    colours = matplotlib.colormaps[cmap].with_extremes(bad=_NO_VALUE)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=vmin, vmax=vmax, aspect=aspect)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    hide_spines(axes)
    return image


def label_cells(
    axes: Axes,
    values: np.ndarray,
    text_of: Callable[[float], str],
    is_dark: Callable[[float], bool],
    *,
    fontsize: float = 8,
) -> None:
    """Write a text into each cell of a heat map that has a value: white on dark cells, else dark."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if is_dark(value) else DARK
            axes.text(column, row, text_of(value), ha="center", va="center", fontsize=fontsize, color=colour)


def add_colour_bar(axes: Axes, mapped: ScalarMappable, *, fraction: float = 0.046, label: str = "") -> Axes:
    """Add a colour bar without an outline for an image or the points of a scatter plot, and return its panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(mapped, ax=axes, fraction=fraction, pad=0.03, label=label)
    bar.outline.set_visible(False)
    return bar.ax
