"""Files, tables and figures from an `EvalReport`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hbt_ray.errors import UserError
from hbt_ray.evaluate import SETTINGS, EvalReport, Run, Sample
from hbt_ray.metrics import MEASURES, measure_of

# The four numbers by which runs are compared: (setting, measure) -> heading.
HEADLINES = {
    ("mono", "map"): "mono mAP",
    ("cross", "map"): "cross mAP",
    ("multi", "map"): "multi mAP",
    ("multi", "rank_distance"): "rank distance",
}
# Where reports stand: in the folder itself, in one for each benchmark, in a training run's folder.
_REPORTS = ("report.json", "*/report.json", "evaluation/*/report.json")
_DARK, _ACCENT, _MUTED = "#20303c", "#2f6f9f", "#9fb3c1"
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}  # keeps a label legible on a line
# Apart from each other also where points overlap; further languages take matplotlib's own.
_DISTINCT = (
    *("#2f6f9f", "#e0503c", "#3a9d5d", "#f2a03d", "#8054b0", "#2cb5c0"),
    *("#d957a8", "#8c5a2b", "#9aa51f", "#16306b", "#6f7a82", "#f0c419"),
    *("#7a1f2b", "#a6d96a", "#f5a3b5", "#85b8e8"),
)
_CROWDED = 20  # languages above which the heat map's cells are too small for numbers


def write_report(report: EvalReport, out_dir: str | Path, model: Any = None) -> Path:
    """Leaves a report's files in a folder, which is made if needed.

    `report.json` (metrics, counts, seconds; written last, so that it stands for a complete folder),
    `per_query.parquet`, `matrix.csv`, `run.trec` and `qrels.trec` for the pool of all languages, and the figures
    `matrix.png`, `bias.png` and `projection.png`.

    Args:
        report: what to write.
        out_dir: the folder.
        model: what was measured, as JSON can hold it; left out where None.

    Returns:
        The folder.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(report.per_query, folder / "per_query.parquet")
    _write_lines(folder / "matrix.csv", _matrix_lines(report))
    _write_lines(folder / "run.trec", _run_lines(report.run))
    _write_lines(folder / "qrels.trec", _qrels_lines(report.judgements))
    for name, figure in (
        ("matrix", matrix_figure(report)),
        ("bias", bias_figure(report)),
        ("projection", projection_figure(report.benchmark, report.sample)),
    ):
        FigureCanvasAgg(figure)
        figure.savefig(folder / f"{name}.png", dpi=150)
    summary = {
        "benchmark": report.benchmark,
        "fingerprint": report.fingerprint,
        **({} if model is None else {"model": model}),
        "metrics": report.metrics,
        "counts": report.counts,
        "seconds": {"embed": report.embed_seconds, "rank": report.rank_seconds},
    }
    (folder / "report.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def read_run_metrics(folder: str | Path) -> dict[str, float]:
    """The metrics that `write_report` left in a report's folder, or in the folder of a run over all its benchmarks.

    Raises:
        UserError: no report is there, or one cannot be read.
    """
    root = Path(folder).expanduser()
    paths = sorted(path for pattern in _REPORTS for path in root.glob(pattern))
    if not paths:
        raise UserError(f"there is no report in {str(root)!r}; evaluate a model into that folder first")
    metrics: dict[str, float] = {}
    for path in paths:
        try:
            metrics |= {name: float(value) for name, value in json.loads(path.read_bytes())["metrics"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{str(path)!r} is not a report; evaluate the model anew") from None
    return metrics


def print_report(report: EvalReport, console: Console | None = None) -> None:
    """Prints every measure in the three settings, and mAP and rank distance of each language."""
    console = console or Console()
    console.print(_measures_table(report), _languages_table(report))
    console.print(
        f"{report.counts['queries']:,} queries, {report.counts['passages']:,} passages; "
        f"embedded in {report.embed_seconds:.1f} s, ranked in {report.rank_seconds:.1f} s",
        highlight=False,
    )


def comparison_table(reports: Mapping[str, Mapping[str, float]]) -> Table:
    """Mono, cross and multi mAP and rank distance of several runs side by side, the best of each column bold.

    Args:
        reports: a run's name -> its metrics, of one benchmark or several; other numbers are passed over.
    """
    headlines = {f"{setting}/{measure}" for setting, measure in HEADLINES}
    named = (name.partition("/") for metrics in reports.values() for name in metrics)
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _, rest in named if rest in headlines))
    columns = [
        (f"{benchmark}/{setting}/{measure}", heading if len(benchmarks) == 1 else f"{benchmark} {heading}")
        for benchmark in benchmarks
        for (setting, measure), heading in HEADLINES.items()
        if any(f"{benchmark}/{setting}/{measure}" in metrics for metrics in reports.values())
    ]
    table = Table(title=benchmarks[0] if len(benchmarks) == 1 else None)
    table.add_column("run")
    for _, heading in columns:
        table.add_column(heading, justify="right")
    shown = {
        metric: {run: _number(metric, metrics.get(metric)) for run, metrics in reports.items()} for metric, _ in columns
    }
    best = {metric: _best(metric, reports) for metric, _ in columns}
    for run in reports:
        cells = (shown[metric][run] for metric, _ in columns)
        # Runs that look the same are marked the same: what the table rounds away is no difference to it.
        bold = (
            best[metric] is not None and shown[metric][run] == _number(metric, best[metric]) for metric, _ in columns
        )
        table.add_row(run, *(f"[bold]{cell}[/bold]" if mark else cell for cell, mark in zip(cells, bold, strict=True)))
    return table


def _best(metric: str, reports: Mapping[str, Mapping[str, float]]) -> float | None:
    """The best value among the runs; None where there is nothing to compare."""
    values = [metrics[metric] for metrics in reports.values() if metric in metrics]
    if len(values) < 2:
        return None
    return max(values) if measure_of(metric).higher_is_better else min(values)


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if measure_of(metric).unit == "share" else f"{value:,.1f}"


def _measures_table(report: EvalReport) -> Table:
    table = Table(title=report.benchmark)
    table.add_column("measure")
    for setting in SETTINGS:
        table.add_column(setting, justify="right")
    for measure in MEASURES.values():
        names = [f"{report.benchmark}/{setting}/{measure.name}" for setting in SETTINGS]
        if any(name in report.metrics for name in names):
            heading = f"{measure.name.replace('_', ' ')} {'↑' if measure.higher_is_better else '↓'}"
            table.add_row(heading, *(_number(name, report.metrics.get(name)) for name in names))
    return table


def _languages_table(report: EvalReport) -> Table:
    table = Table(title="by question language")
    table.add_column("language")
    for heading in HEADLINES.values():
        table.add_column(heading, justify="right")
    for language in _query_languages(report):
        table.add_row(language, *(_number(f"/{s}/{m}", v) for (s, m), v in _language_values(report, language).items()))
    return table


def _query_languages(report: EvalReport) -> list[str]:
    return [language for language in report.languages if f"{report.benchmark}/multi/map/{language}" in report.metrics]


def _language_values(report: EvalReport, language: str) -> dict[tuple[str, str], float | None]:
    """The headline numbers of one question language; cross is the mean over passage languages."""
    values = {
        (setting, measure): report.metrics.get(f"{report.benchmark}/{setting}/{measure}/{language}")
        for setting, measure in HEADLINES
    }
    place = report.languages.index(language)
    others = np.delete(report.matrix[place], place)
    others = others[~np.isnan(others)]
    return values | {("cross", "map"): float(others.mean()) if len(others) else None}


def matrix_figure(report: EvalReport) -> Figure:
    """mAP of every question language in every passage language, as a heat map with its numbers."""
    rows = [report.languages.index(language) for language in _query_languages(report)]
    columns = [n for n in range(len(report.languages)) if report.counts[f"passages/{report.languages[n]}"]]
    values = report.matrix[np.ix_(rows, columns)]
    figure, axes = _figure(2.6 + 0.52 * len(columns), 2.2 + 0.48 * len(rows))
    colours = matplotlib.colormaps["YlGnBu"].with_extremes(bad="#eeeeee")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), [report.languages[n] for n in columns])
    axes.set_yticks(range(len(rows)), [report.languages[n] for n in rows])
    axes.set_xlabel("passage language")
    axes.set_ylabel("question language")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    if len(columns) <= _CROWDED:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=8.5, color="white" if value > 0.55 else _DARK
                )
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    axes.set_title(f"{report.benchmark}: mAP within and across languages", loc="left", pad=12)
    return figure


def bias_figure(report: EvalReport) -> Figure:
    """Rank distance and mAP over the pool of all languages, by question language, the most even-handed first."""
    languages = _query_languages(report)
    precision = {language: report.metrics[f"{report.benchmark}/multi/map/{language}"] for language in languages}
    distance = {
        language: report.metrics.get(f"{report.benchmark}/multi/rank_distance/{language}", np.nan)
        for language in languages
    }
    ordered = sorted(languages, key=lambda language: (np.isnan(distance[language]), distance[language], language))
    figure = Figure(figsize=(8.6, 1.7 + 0.32 * len(ordered)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, metric, label in (
        (left, distance, "multi/rank_distance", "rank distance, in ranks (lower is fairer)"),
        (right, precision, "multi/map", "multi mAP (higher is better)"),
    ):
        name = f"{report.benchmark}/{metric}"
        numbers = [values[language] for language in ordered]
        bars = axes.barh(ordered, np.nan_to_num(numbers), color=_ACCENT, height=0.68)
        labels = ["none" if np.isnan(number) else _short(name, number) for number in numbers]
        axes.bar_label(bars, labels, padding=5, fontsize=8.5, color=_DARK, bbox=_PLATE)
        if name in report.metrics:
            mean = report.metrics[name]
            axes.axvline(mean, color=_DARK, linewidth=1, linestyle=(0, (4, 3)))
            axes.xaxis.set_major_formatter("{x:g}" if measure_of(name).unit == "share" else "{x:,.0f}")
            axes.set_title(f"mean {_short(name, mean)}", fontsize=9.5, loc="left", color=_DARK)
        axes.set_xlabel(label)
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    left.invert_yaxis()
    left.set_ylabel("question language")
    figure.suptitle(f"{report.benchmark}: language bias in the pool of all languages", x=0.01, ha="left", fontsize=12)
    return figure


def _short(metric: str, value: float) -> str:
    if measure_of(metric).unit == "share":
        return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
    return f"{value:,.0f}"


def projection_figure(benchmark: str, sample: Sample) -> Figure:
    """Questions and passages in the plane, a colour for each language: a model without bias shows no islands."""
    points, method = _project(sample.vectors)
    languages = sorted(set(sample.languages))
    figure, axes = _figure(8.2, 6.4)
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
    axes.scatter([], [], s=26, marker="o", facecolors="none", edgecolors=_DARK, label="question")
    axes.scatter([], [], s=26, marker="^", color=_DARK, linewidths=0, label="passage")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=1 + len(languages) // _CROWDED)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(_MUTED)
    axes.set_title(f"{benchmark}: questions and the passages that answer them ({method})", loc="left", pad=12)
    return figure


def _project(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """(S, D) vectors in the plane, (S, 2), and by which method: t-SNE from 50 points that differ, else PCA."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    plane = (left * lengths)[:, :2]
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    if len(np.unique(vectors, axis=0)) < 50 or lengths[0] < 1e-6:
        return plane, "PCA"
    # Imported when asked for: scikit-learn takes a second that short reports need not spend.
    from sklearn.manifold import TSNE

    start = plane / plane[:, 0].std() * 1e-4  # as van der Maaten and Hinton 2008 start, but from the PCA
    perplexity = min(30, (len(vectors) - 1) / 3)
    points = TSNE(perplexity=perplexity, init=start, max_iter=500, random_state=0).fit_transform(vectors)
    return np.asarray(points), "t-SNE"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _matrix_lines(report: EvalReport) -> Iterator[str]:
    yield ",".join(("question_language", *report.languages))
    for language, row in zip(report.languages, report.matrix, strict=True):
        yield ",".join((language, *("" if np.isnan(value) else repr(float(value)) for value in row)))


def _run_lines(run: Run) -> Iterator[str]:
    for query_id, columns, scores in zip(run.query_ids, run.columns.tolist(), run.scores.tolist(), strict=True):
        for rank, (column, score) in enumerate(zip(columns, scores, strict=True), start=1):
            # Nine significant digits bring a float32 back to itself.
            yield f"{query_id} Q0 {run.passage_ids[column]} {rank} {score:.9g} hbt"


def _qrels_lines(judgements: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    return chain.from_iterable(
        (f"{query_id} 0 {passage_id} {grade}" for passage_id, grade in sorted(judged.items()))
        for query_id, judged in sorted(judgements.items())
    )


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
