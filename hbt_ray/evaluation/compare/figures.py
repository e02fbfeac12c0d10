"""A figure of the headline metrics of several runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from hbt_ray.evaluation.compare.runs import RunGroup
from hbt_ray.evaluation.compare.tables import headline_metrics
from hbt_ray.evaluation.metrics import find_metric
from hbt_ray.utils.plotting import ACCENT, DARK, MUTED, hide_spines, new_panels


def comparison_figure(groups: Sequence[RunGroup]) -> Figure:
    """Draw a panel for each headline metric: the mean of every group of runs, and a dot for each seed."""
    headlines = headline_metrics(groups)
    columns = min(len(headlines), 2)
    rows = -(-len(headlines) // max(columns, 1))
    size = (5.4 * columns, rows * (1.0 + 0.34 * len(groups)))
    figure, panels = new_panels(len(headlines), columns, size, sharey=True)
    labels = [group.label for group in groups]
    for panel, (_, metric, heading) in zip(panels, headlines, strict=True):
        registered = find_metric(metric)
        means = [group.mean(metric) for group in groups]
        bars = panel.barh(range(len(labels)), [mean or 0.0 for mean in means], color=ACCENT, height=0.62)
        number = "{:.3f}" if registered.unit == "share" else "{:,.0f}"
        labels_of_bars = ["none" if mean is None else number.format(mean) for mean in means]
        panel.bar_label(bars, labels_of_bars, padding=6, fontsize=8.5, color=DARK)
        for position, group in enumerate(groups):
            values = group.values(metric)
            if len(values) > 1:
                panel.scatter(values, [position] * len(values), s=12, color=MUTED, edgecolors=DARK, linewidths=0.5)
        panel.set_yticks(range(len(labels)), labels)
        panel.set_title(
            f"{heading} ({'higher' if registered.higher_is_better else 'lower'} is better)", fontsize=9.5, loc="left"
        )
        panel.margins(x=0.16)
        panel.set_xlim(left=0)
        panel.tick_params(axis="y", length=0)
        hide_spines(panel, "top", "right", "left")
    if len(panels):
        panels[0].invert_yaxis()
    return figure
