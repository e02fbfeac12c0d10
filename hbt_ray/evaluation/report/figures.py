"""A report's figures: the matrix of language pairs, the bias per language, the projection of the vectors."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hbt_ray.evaluation.evaluator import EmbeddingSample, EvalReport
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.evaluation.report.tables import query_languages
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

_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}  # keeps a label legible on a line
# Distinguishable also where points overlap; for more languages matplotlib's colours are used.
_DISTINCT = (
    *("#2f6f9f", "#e0503c", "#3a9d5d", "#f2a03d", "#8054b0", "#2cb5c0"),
    *("#d957a8", "#8c5a2b", "#9aa51f", "#16306b", "#6f7a82", "#f0c419"),
    *("#7a1f2b", "#a6d96a", "#f5a3b5", "#85b8e8"),
)
_MAX_LABELLED_LANGUAGES = 20  # above it the heat map's cells are too small for numbers


def matrix_figure(report: EvalReport) -> Figure:
    """Draw mAP by query and passage language as a heat map with its numbers."""
    rows = [report.languages.index(language) for language in query_languages(report)]
    columns = [n for n in range(len(report.languages)) if report.counts[f"passages/{report.languages[n]}"]]
    values = report.matrix[np.ix_(rows, columns)]
    figure, axes = new_figure(max(2.6 + 0.52 * len(columns), 6.4), 2.2 + 0.48 * len(rows))
    image = draw_heat_map(
        axes,
        values,
        columns=[report.languages[n] for n in columns],
        rows=[report.languages[n] for n in rows],
        vmin=0,
        vmax=1,
    )
    axes.set_xlabel("passage language")
    axes.set_ylabel("question language")
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    if len(columns) <= _MAX_LABELLED_LANGUAGES:
        label_cells(
            axes,
            values,
            lambda value: f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0",
            lambda value: value > 0.55,
            fontsize=8.5,
        )
    add_colour_bar(axes, image).tick_params(length=0)
    axes.set_title(f"{report.title}: mAP within and across languages", loc="left", pad=12)
    return figure


def bias_figure(report: EvalReport) -> Figure:
    """Draw rank distance and multi mAP by query language, the smallest rank distance first."""
    languages = query_languages(report)
    multi_map = {language: report.metrics[report.metric("multi", "map", language)] for language in languages}
    distance = {
        language: report.metrics.get(report.metric("multi", "rank_distance", language), np.nan)
        for language in languages
    }
    ordered = sorted(languages, key=lambda language: (np.isnan(distance[language]), distance[language], language))
    figure, (left, right) = new_panels(2, 2, (8.6, 1.7 + 0.32 * len(ordered)), sharey=True)
    for axes, values, metric, label in (
        (left, distance, "rank_distance", "rank distance, in ranks (lower is fairer)"),
        (right, multi_map, "map", "multi mAP (higher is better)"),
    ):
        name = report.metric("multi", metric)
        numbers = [values[language] for language in ordered]
        bars = axes.barh(ordered, np.nan_to_num(numbers), color=ACCENT, height=0.68)
        labels = ["none" if np.isnan(number) else _short(name, number) for number in numbers]
        axes.bar_label(bars, labels, padding=5, fontsize=8.5, color=DARK, bbox=_LABEL_BOX)
        if name in report.metrics:
            mean = report.metrics[name]
            axes.axvline(mean, color=DARK, linewidth=1, linestyle=(0, (4, 3)))
            axes.xaxis.set_major_formatter("{x:g}" if find_metric(name).unit == "share" else "{x:,.0f}")
            axes.set_title(f"mean {_short(name, mean)}", fontsize=9.5, loc="left", color=DARK)
        axes.set_xlabel(label)
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        hide_spines(axes, "top", "right", "left")
    left.invert_yaxis()
    left.set_ylabel("question language")
    figure.suptitle(f"{report.title}: language bias in the pool of all languages", x=0.01, ha="left", fontsize=12)
    return figure


def _short(metric: str, value: float) -> str:
    """Format a metric's value for a figure."""
    if find_metric(metric).unit == "share":
        return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
    return f"{value:,.0f}"


def projection_figure(benchmark: str, sample: EmbeddingSample) -> Figure:
    """Draw queries and passages in the plane, a colour for each language; without language bias, colours mix."""
    points = _project(sample.vectors)
    languages = sorted(set(sample.languages))
    figure, axes = new_figure(8.2, 6.4)
    palette = _DISTINCT if len(languages) <= len(_DISTINCT) else tuple(matplotlib.color_sequences["tab20"])
    language_of, side_of = np.array(sample.languages), np.array(sample.sides)
    for number, language in enumerate(languages):
        colour = palette[number % len(palette)]
        chosen = language_of == language
        x, y = points[chosen & (side_of == "question")].T
        axes.scatter(x, y, s=26, marker="o", facecolors="none", edgecolors=colour, linewidths=1.2)
        x, y = points[chosen & (side_of == "passage")].T
        axes.scatter(x, y, s=26, marker="^", color=colour, alpha=0.75, linewidths=0)
        axes.scatter([], [], s=40, marker="s", color=colour, label=language)
    axes.scatter([], [], s=26, marker="o", facecolors="none", edgecolors=DARK, label="question")
    axes.scatter([], [], s=26, marker="^", color=DARK, linewidths=0, label="passage")
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        ncols=1 + len(languages) // _MAX_LABELLED_LANGUAGES,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(MUTED)
    axes.set_title(f"{benchmark}: questions and the passages that answer them (PCA)", loc="left", pad=12)
    return figure


def _project(vectors: np.ndarray) -> np.ndarray:
    """Project (S, D) vectors to their first two principal components, (S, 2)."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    plane = (left * lengths)[:, :2]
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
