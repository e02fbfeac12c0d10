"""A study's report: Markdown, the same as one HTML file, figures, and its numbers."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token

from hbt_ray.evaluation.report import make_folder, report_errors
from hbt_ray.study.claim_sections import claims_section, placebo_section
from hbt_ray.study.optional_sections import OPTIONAL_SECTIONS
from hbt_ray.study.report_sections import (
    ReportSection,
    StudyInputs,
    answer,
    bias_section,
    comparison_section,
    data_section,
    limits_section,
    published_section,
    results_section,
    setup_section,
)
from hbt_ray.study.results import Comparison, StudyResults
from hbt_ray.utils.atomic_write import atomic_files
from hbt_ray.utils.html_page import PAGE, image_source, render_page
from hbt_ray.utils.plotting import save_figure
from hbt_ray.utils.redaction import redact

MARKDOWN, SUMMARY, TABLE, FIGURES = "report.md", "summary.json", "table.csv", "figures"


def write_study_report(results: StudyResults, inputs: StudyInputs, command: str) -> Path:
    """Write `report.md`, `report.html`, `figures/`, `table.csv` and, last, `summary.json` to the study's folder.

    They replace those of an earlier report in one step: if writing fails, the earlier report remains.

    Args:
        results: of the study.
        inputs: what the experiments were trained on.
        command: that repeats the study.

    Returns:
        The HTML file.

    Raises:
        UserError: an experiment was not evaluated on a benchmark of the study's metrics.
        StorageError: the folder cannot be written.
    """
    folder = results.folder
    make_folder(folder)
    comparisons = results.comparisons(results.config.measures)
    sections = [
        data_section(results, inputs),
        setup_section(results.config, inputs),
        results_section(results),
        *([published_section(results.config)] if results.config.published else []),
        comparison_section(results, comparisons),
        claims_section(results),
        placebo_section(results),
        bias_section(results),
        *(OPTIONAL_SECTIONS[name](results) for name in results.config.chapters),
        limits_section(results.config),
        ReportSection("How to repeat it", ["```bash", command, "```", ""]),
    ]
    sections = [section for section in sections if section.lines]
    text = redact(_markdown(results, comparisons, sections))
    with report_errors(folder), atomic_files(folder, last=SUMMARY) as partial:
        (partial / FIGURES).mkdir()
        figures = {f"{FIGURES}/{name}.png": figure for section in sections for name, figure in section.figures.items()}
        for path, figure in figures.items():
            save_figure(figure, partial / path, dpi=130, bbox_inches="tight", metadata={"Software": None})
        (partial / MARKDOWN).write_text(text, encoding="utf-8")
        (partial / PAGE).write_text(_html_page(results.config.title, text, partial, figures), encoding="utf-8")
        _write_table(results, partial / TABLE)
        (partial / SUMMARY).write_text(json.dumps(summary(results, comparisons), indent=1) + "\n", encoding="utf-8")
    return folder / PAGE


def summary(results: StudyResults, comparisons: Sequence[Comparison]) -> dict[str, object]:
    """Return the study's numbers. They do not depend on when or where it was run."""
    return {
        "study": results.config.name,
        "seeds": list(results.config.seeds),
        "measures": {
            metric: {method: list(estimate.values) for method, estimate in results.estimates(metric).items()}
            for metric in results.config.measures
        },
        "against": results.config.reference,
        "comparisons": [
            {
                "method": comparison.method,
                "measure": comparison.metric,
                "difference": comparison.models.mean,
                "low": comparison.models.low,
                "high": comparison.models.high,
                "p": comparison.p_of_models,
                "by_seed": list(comparison.by_seed),
                "of_methods": _of_methods(comparison),
            }
            for comparison in comparisons
        ],
        "claims": [
            {**one.claim.model_dump(mode="json"), "p": one.p_value, "shown": one.is_shown}
            for one in results.tested_claims()
        ],
    }


def _of_methods(comparison: Comparison) -> dict[str, float | None] | None:
    found = comparison.methods
    if found is None:
        return None
    return {
        "low": found.low,
        "high": found.high,
        "p": comparison.p_of_methods,
        "p_over_seeds": found.p_over_seeds,
        "p_of_sign_flips": found.p_of_sign_flips,
    }


def _write_table(results: StudyResults, file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["method", "seed", *results.config.measures])
        for method in results.methods:
            for seed in results.config.seeds:
                values = (results.by_query(method, seed, metric).value for metric in results.config.measures)
                writer.writerow([method, seed, *values])


def _markdown(results: StudyResults, comparisons: Sequence[Comparison], sections: Sequence[ReportSection]) -> str:
    config = results.config
    lines = [f"# {config.title}", "", f"**Question.** {config.question}", ""]
    lines += [f"**Answer.** {answer(results, comparisons)}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *section.lines]
    return "\n".join(lines)


def _html_page(title: str, markdown: str, folder: Path, figures: Collection[str]) -> str:
    """Return the report as one HTML file that holds its figures. HTML in the Markdown is escaped.

    An image that is not one of these figures is replaced by its text: the text of a study file may name any file of
    this machine, and an image from the network would report who reads the page.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(_: RendererProtocol, tokens: Sequence[Token], index: int, *__: object) -> str:
        source, text = str(tokens[index].attrGet("src")), html.escape(tokens[index].content)
        path = unquote(source)
        if path not in figures:
            return text
        return f'<img src="{image_source(folder / path)}" alt="{text}" />'

    reader.add_render_rule("image", image)
    body = reader.render(markdown)
    return render_page("hbt_ray.study", "report.html.jinja", title=title, body=body)
