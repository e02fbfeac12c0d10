"""A study's report: Markdown, the same as one HTML file, figures, and its numbers."""

from __future__ import annotations

import base64
import csv
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from hbt_ray.config import flatten
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import make_folder, markdown_table
from hbt_ray.evaluation.significance import LEVEL
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.report_sections import (
    CHAPTERS,
    ReportSection,
    bias_chapter,
    results_chapter,
    shown,
    significance_chapter,
)
from hbt_ray.study.results import Comparison, Results, higher_is_better
from hbt_ray.utils.plotting import save_figure

REPORT, PAGE, SUMMARY, TABLE = "report.md", "report.html", "summary.json", "table.csv"
EMPTY: Mapping[str, StoreManifest] = {}
# What a reader of the set-up wants to know of a run.
_TOLD = (
    *("model.path", "model.small.layers", "model.small.width", "mix.strategy", "mix.alpha", "train.steps"),
    *("train.global_batch_pairs", "train.learning_rate", "train.temperature", "train.precision", "model.dropout"),
    *("text.max_query_tokens", "text.max_passage_tokens"),
)


Manifests = Mapping[str, StoreManifest]  # by any name of the store


def write_document(results: Results, trained_on: Manifests, command: str, pretrained_on: Manifests = EMPTY) -> Path:
    """Leaves `report.md`, `report.html`, `figures/`, `table.csv` and, last, `summary.json` in the study's folder.

    Args:
        trained_on, pretrained_on: what the stores hold.
        command: that repeats the study.

    Returns:
        The HTML file.
    """
    folder = results.folder
    make_folder(folder / "figures")
    comparisons = results.comparisons(results.config.measures)
    chapters = [
        results_chapter(results),
        significance_chapter(results, comparisons),
        bias_chapter(results),
        *(CHAPTERS[name](results) for name in results.config.chapters),
    ]
    for chapter in chapters:
        for name, figure in chapter.figures.items():
            file = folder / "figures" / f"{name}.png"
            save_figure(figure, file, dpi=130, bbox_inches="tight", metadata={"Software": None})
    text = "\n".join(_lines(results, (trained_on, pretrained_on), chapters, comparisons, command)) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(_page(results.config.title, text, folder), encoding="utf-8")
    _write_table(results, folder / TABLE)
    (folder / SUMMARY).write_text(json.dumps(summary(results, comparisons), indent=1) + "\n", encoding="utf-8")
    return folder / PAGE


def summary(results: Results, comparisons: list[Comparison]) -> dict[str, Any]:
    """The study's numbers: nothing in it depends on when or where it was carried out."""
    return {
        "study": results.config.name,
        "seeds": list(results.config.seeds),
        "measures": {
            measure: {method: list(results.estimate(method, measure).values) for method in results.methods}
            for measure in results.config.measures
        },
        "against": results.config.reference,
        "comparisons": [
            {
                "method": found.method,
                "measure": found.measure,
                "difference": found.difference.mean,
                "low": found.difference.low,
                "high": found.difference.high,
                "p": found.p_value,
                "by_seed": list(found.by_seed),
            }
            for found in comparisons
        ],
    }


def _write_table(results: Results, file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["method", "seed", *results.config.measures])
        for method in results.methods:
            for seed in results.config.seeds:
                values = (results.by_query(method, seed, measure).value for measure in results.config.measures)
                writer.writerow([method, seed, *values])


def _lines(
    results: Results,
    manifests: tuple[Manifests, Manifests],
    chapters: list[ReportSection],
    comparisons: list[Comparison],
    command: str,
) -> Iterator[str]:
    config = results.config
    yield from (f"# {config.title}", "", f"**Question.** {config.question}", "")
    yield from (f"**Answer.** {answer(results, comparisons)}", "")
    trained_on, pretrained_on = manifests
    yield from ("## Data", "", *_data_lines("Trained on", config, trained_on), "")
    if pretrained_on:
        yield from (*_data_lines("Pretrained on", config, pretrained_on), "")
    yield from (*_benchmark_lines(results), "")
    yield from ("## Set-up", "", *_setup_lines(config), "")
    for chapter in chapters:
        yield from (f"## {chapter.title}", "", *chapter.lines, "")
    yield from ("## What this study cannot say", "")
    yield from (f"- {limit}" for limit in (*config.limits, *_general_limits(config)))
    yield from ("", "## To repeat it", "", "```bash", command, "```")


def answer(results: Results, comparisons: list[Comparison]) -> str:
    """The first measure, told in a sentence: the reference, and what each other method is against it."""
    reference, measure = results.config.reference, results.config.measures[0]
    told = []
    for found in (found for found in comparisons if found.measure == measure):
        if found.p_value >= LEVEL:
            verdict = "no difference is shown"
        else:
            better = (found.difference.mean < 0) == higher_is_better(measure)
            verdict = f"{reference} is {'better' if better else 'worse'}"
        change = shown(measure, -found.difference.mean, sign=True)
        seeds = f"{found.seeds_agreeing} of {len(found.by_seed)} seeds"
        told.append(f"against {found.method} {verdict} ({change}, p {found.p_value:.3g}, {seeds})")
    mean = shown(measure, results.estimate(reference, measure).mean)
    return f"In {display_name(measure)} {reference} has {mean}; " + "; ".join(told) + "."


def _data_lines(doing: str, config: StudyConfig, manifests: Manifests) -> Iterator[str]:
    rows: dict[tuple[str, ...], None] = {}
    for manifest in manifests.values():
        for name, source in manifest.sources.items():
            counts = manifest.counts[name]
            row = (
                *(name, f"{source.items():,}", f"{source.items('validation'):,}", str(len(source.languages))),
                f"{len(counts['items_dropped_for_evaluation']):,}",
                f"{len(counts['items_dropped_as_repeated']):,}",
                config.licences.get(name, "not told"),
            )
            rows[row] = None
    yield f"{doing}; an item is a question and its passage, or a text, in several languages:"
    yield ""
    headings = ["corpus", "items", "held out", "languages", "left out: in a test set", "left out: repeated", "licence"]
    yield from markdown_table(headings, [list(row) for row in rows])


def _benchmark_lines(results: Results) -> Iterator[str]:
    config, method, seed = results.config, results.methods[0], results.config.seeds[0]
    measured = dict.fromkeys(measure for measure in _benchmarks_of(results))
    rows = []
    for benchmark in measured:
        report = results.report(method, seed, benchmark)
        counts = report["counts"]
        origin = next((name for name in config.made if name.replace("/", "-") == benchmark), None)
        made = f"made from {config.made[origin].corpus.name}" if origin else "as it is"
        rows.append(
            [
                *(benchmark, f"{counts['queries']:,}", f"{counts['passages']:,}", str(counts["languages"])),
                *(made, config.licences.get((origin and config.made[origin].corpus.name) or benchmark, "not told")),
                str(report["fingerprint"]),
            ]
        )
    yield "Measured on:"
    yield ""
    headings = ["benchmark", "queries", "passages", "languages", "files", "licence", "fingerprint"]
    yield from markdown_table(headings, rows)


def _benchmarks_of(results: Results) -> Iterator[str]:
    for name in results.config.run.evaluate.benchmarks:
        yield name.replace("/", "-")


def _setup_lines(config: StudyConfig) -> Iterator[str]:
    common = flatten(config.run)
    told = [[key, str(common[key])] for key in _TOLD if common.get(key) is not None]
    if config.run.model.path is None:
        told.insert(0, ["encoder", "from nothing, with a tokenizer trained on the corpora"])
    yield "All methods have in common:"
    yield ""
    yield from markdown_table(["setting", "value"], told)
    yield from ("", "They differ in:", "")
    rows = []
    for name, method in config.methods.items():
        parts = [f"{key} = {_brief(value)}" for key, value in method.settings.items()]
        parts += [f"starts from the pretraining “{method.pretrained}”"] if method.pretrained else []
        parts += [f"hard negatives mined with {method.mined_with}"] if method.mined_with else []
        parts += [f"taught by {method.taught_by}"] if method.taught_by else []
        parts = parts if method.trained else ["not fine-tuned", *parts]
        rows.append([name, "; ".join(parts) or "nothing"])
    yield from markdown_table(["method", "what it is"], rows)
    for name, own in config.pretraining.items():
        parts = [f"goes on from “{own.after}”"] if own.after else []
        parts += [f"{key} = {_brief(value)}" for key, value in own.settings.items()]
        yield from ("", f"Pretraining “{name}”: {'; '.join(parts)}.")


def _brief(value: Any) -> str:
    """A setting's value; of corpora their names."""
    if isinstance(value, list) and all(isinstance(entry, dict) and "format" in entry for entry in value):
        return ", ".join(str(entry.get("name") or entry.get("path") or entry["format"]) for entry in value)
    return str(value)


def _general_limits(config: StudyConfig) -> Iterator[str]:
    yield (
        f"It has {len(config.seeds)} seeds: the intervals over them are wide, and tell of chance in training alone, "
        "not of other corpora or encoders."
    )
    if config.made:
        named = ", ".join(f"{name} (from {made.corpus.name})" for name, made in config.made.items())
        yield (
            f"{named}: the files have the published format, not the published content; nothing here is a figure of the "
            "published benchmarks, and where questions are parallel the tests count their translations as independent."
        )
    if config.run.model.path is None:
        yield "The encoder is small and starts from nothing; one that was pretrained on much text may behave otherwise."


def _page(title: str, text: str, folder: Path) -> str:
    """One file, its figures within."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inlined(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / html.unescape(match[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(figures/[^"]+)"', inlined, body)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #20303c; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.25rem 0.7rem; border-bottom: 1px solid #dde4ea; text-align: left; }}
td[style*="right"] {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #9fb3c1; vertical-align: bottom; }}
img {{ max-width: 100%; }}
pre {{ background: #f3f6f8; padding: 0.8rem; overflow-x: auto; }}
h2 {{ margin-top: 2.2rem; border-bottom: 1px solid #9fb3c1; }}
</style>
</head>
<body>
{body}</body>
</html>
"""
