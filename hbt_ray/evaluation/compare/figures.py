"""Runs side by side, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.compare.tables import headline_metrics
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.utils.plotting import ACCENT, DARK, MUTED


def comparison_figure(contenders: Sequence[RunGroup]) -> Figure:
    """A panel for each headline: the mean of every contender, and a dot for each of its seeds."""
    headlines = headline_metrics(contenders)
    columns = min(len(headlines), 2)
    rows = -(-len(headlines) // max(columns, 1))
    figure = Figure(figsize=(5.4 * columns, rows * (1.0 + 0.34 * len(contenders))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for panel in panels[len(headlines) :]:
        panel.set_visible(False)
    labels = [contender.label for contender in contenders]
    for panel, (_, metric, heading) in zip(panels, headlines, strict=False):
        measure = find_metric(metric)
        means = [contender.mean(metric) or 0.0 for contender in contenders]
        bars = panel.barh(range(len(labels)), means, color=ACCENT, height=0.62)
        shown = [f"{mean:.3f}" if measure.unit == "share" else f"{mean:,.0f}" for mean in means]
        panel.bar_label(bars, shown, padding=6, fontsize=8.5, color=DARK)
        for place, contender in enumerate(contenders):
            values = contender.values(metric)
            if len(values) > 1:
                panel.scatter(values, [place] * len(values), s=12, color=MUTED, edgecolors=DARK, linewidths=0.5)
        panel.set_yticks(range(len(labels)), labels)
        panel.set_title(
            f"{heading} ({'higher' if measure.higher_is_better else 'lower'} is better)", fontsize=9.5, loc="left"
        )
        panel.margins(x=0.16)
        panel.set_xlim(left=0)
        panel.tick_params(axis="y", length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
    if len(panels):
        panels[0].invert_yaxis()
    return figure
