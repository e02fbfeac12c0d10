"""The sections that a study's `chapters` add to its report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from hbt_ray.evaluation.metrics import DROP, WORST_DROP, display_name
from hbt_ray.evaluation.retrieval_metrics import LEVELS
from hbt_ray.study.alpha_section import alpha_section
from hbt_ray.study.config import SectionName
from hbt_ray.study.figures import bars_figure, change_figure, lines_figure, scatter_figure
from hbt_ray.study.report_sections import ReportSection, benchmarks_of, format_estimate
from hbt_ray.study.results import Estimate, StudyResults, estimate, without_drop
from hbt_ray.utils.file_names import word_name

_ALIGNMENT_COLUMNS = {
    "cosine": "cosine of parallel",
    "cosine_of_others": "cosine of others",
    "recall@1": "recall@1",
    "recall@10": "recall@10",
    "uniformity": "uniformity",
}


def levels_section(results: StudyResults) -> ReportSection:
    """List the metrics by the resource level of the languages."""
    section = ReportSection("By resource level")
    section.add_text(
        "The levels follow the sizes of MIRACL's Wikipedias. A pair of languages counts at the level of either one."
    )
    for metric in _whole_metrics(results):
        levels = [level for level in LEVELS if results.has(f"{metric}/{level}")]
        if len(levels) < 2:
            continue
        parts = [f"{metric}/{level}" for level in levels]
        rows = [
            [method, *(format_estimate(part, results.estimate(method, part)) for part in parts)]
            for method in results.methods
        ]
        section.add_table(["method", *levels], rows, caption=f"{display_name(metric)}:")
    return section


def languages_section(results: StudyResults) -> ReportSection:
    """List and draw the first metric by query language."""
    section = ReportSection("By language")
    metric = _whole_metrics(results)[0]
    by_language = _by_language(results, metric)
    section.add_table(
        ["language", *results.methods],
        _language_rows(results, metric, by_language),
        caption=f"{display_name(metric)}:",
    )
    figure = bars_figure(f"{display_name(metric)}, by question language", "", by_language)
    section.add_figure("languages", f"{display_name(metric)} by language", figure)
    return section


def robustness_section(results: StudyResults) -> ReportSection:
    """List and draw how much the metrics fall on perturbed queries."""
    section = ReportSection("Robustness")
    section.add_text(
        "With m the metric on the original queries and m_g that on queries with perturbation g: the mean drop is the "
        "mean of m - m_g over the perturbations, the worst-group drop is the largest m - m_g, and the relative drop is "
        "the mean drop divided by m. A lower drop is more robust; with equal drops, the encoder with the higher m has "
        "lost the smaller part of it. Of a metric of which less is better, a drop is m_g - m."
    )
    for metric in _whole_metrics(results):
        _add_drops(section, results, metric)
    return section


def _add_drops(section: ReportSection, results: StudyResults, metric: str) -> None:
    perturbations = results.config.run.evaluate.perturbations
    benchmark, _, name = metric.partition("/")
    columns = [metric, *(f"{benchmark}-{perturbation}/{name}" for perturbation in perturbations)]
    rows, drops = [], {}
    for method in results.methods:
        original = results.estimate(method, metric)
        mean_drop, worst_drop = (results.estimate(method, f"{prefix}/{metric}") for prefix in (DROP, WORST_DROP))
        relative = [drop / m if m else 0.0 for drop, m in zip(mean_drop.values, original.values, strict=True)]
        drops[method] = {"mean drop": mean_drop, "worst-group drop": worst_drop}
        rows.append(
            [
                method,
                *(format_estimate(column, results.estimate(method, column)) for column in columns),
                format_estimate(metric, mean_drop),
                format_estimate(metric, worst_drop),
                f"{100 * estimate(relative).mean:.1f}%",
            ]
        )
    headings = ["method", "original", *perturbations, "mean drop ↓", "worst-group drop ↓", "relative drop ↓"]
    section.add_table(headings, rows, caption=f"{display_name(metric)}:")
    figure = bars_figure(f"{display_name(metric)}: drop on perturbed queries", "drop", drops)
    file = f"robustness-{benchmark}-{name.replace('/', '-').replace('@', '-at-')}"
    section.add_figure(file, f"{display_name(metric)}: drops", figure)


def scale_section(results: StudyResults) -> ReportSection:
    """List and draw the metrics over the number of languages of the pretraining."""
    section = ReportSection("By number of pretraining languages")
    config = results.config
    languages = {
        name: config.pretraining[method.pretrained].settings["languages"]
        for name, method in config.methods.items()
        if method.pretrained is not None and config.pretraining[method.pretrained].settings.get("languages")
    }
    lines, levels, correlations = {}, {}, []
    for metric in config.measures:
        estimates = results.estimates(metric)
        points = [(len(languages[name]), estimates[name]) for name in languages]
        lines[display_name(metric)] = {"pretrained": points}
        levels[display_name(metric)] = {
            name: estimate.mean for name, estimate in estimates.items() if name not in languages
        }
        means = np.array([(number, estimate.mean) for number, estimate in points])
        correlations.append([display_name(metric), _rank_correlation(means[:, 0], means[:, 1])])
    title, x_label = "by number of pretraining languages", "languages of the pretraining"
    figure = lines_figure(title, x_label, lines, levels, log_x=True)
    section.add_figure("scale", "metrics by number of pretraining languages", figure)
    section.add_table(
        ["method", "languages of the pretraining"], [[name, ", ".join(listed)] for name, listed in languages.items()]
    )
    section.add_table(
        ["metric", "rho"],
        correlations,
        caption="Rank correlation of the means over seeds with the number of languages (Spearman):",
    )
    return section


def alignment_section(results: StudyResults) -> ReportSection:
    """List how similar parallel texts are, and whether pairs with higher alignment have higher mAP."""
    section = ReportSection("Alignment")
    for benchmark in benchmarks_of(results):
        metrics = results.first_report(benchmark).metrics
        for group, texts in (("alignment", "questions"), ("passage_alignment", "passages")):
            prefix = f"{benchmark}/{group}"
            if f"{prefix}/cosine" in metrics:
                section.add_table(
                    ["method", *_ALIGNMENT_COLUMNS.values()],
                    [
                        [method, *(_mean_reported(results, method, f"{prefix}/{key}") for key in _ALIGNMENT_COLUMNS)]
                        for method in results.methods
                    ],
                    caption=f"{benchmark}, {texts} (means over ordered pairs of languages):",
                )
        start = f"{benchmark}/alignment/recall@1/"
        pairs = [name.removeprefix(start) for name in metrics if name.startswith(start)]
        pairs = [pair for pair in pairs if f"{benchmark}/cross/map/{pair}" in metrics]
        if pairs:
            _add_pair_correlations(section, results, benchmark, pairs)
            _add_recall_change(section, results, benchmark, pairs)
    return section


def _mean_reported(results: StudyResults, method: str, metric: str) -> str:
    found = estimate(results.reported(method, metric))
    return f"{found.mean:.3f}" + ("" if found.half_width is None else f" ± {found.half_width:.3f}")


def _pair_means(results: StudyResults, method: str, metric: str, pairs: list[str]) -> np.ndarray:
    """Return a metric of each language pair, the mean over seeds: (pairs,)."""
    return np.array([np.mean(results.reported(method, f"{metric}/{pair}")) for pair in pairs])


def _add_pair_correlations(section: ReportSection, results: StudyResults, benchmark: str, pairs: list[str]) -> None:
    """Correlate the alignment of a pair's questions with the pair's mAP, for each method."""
    points, rows = {}, []
    for method in results.methods:
        recall, precision, cosine = (
            _pair_means(results, method, f"{benchmark}/{name}", pairs)
            for name in ("alignment/recall@1", "cross/map", "alignment/cosine")
        )
        points[method] = (recall.tolist(), precision.tolist())
        rows.append([method, _rank_correlation(recall, precision), _rank_correlation(cosine, precision)])
    section.add_table(
        ["method", "with recall@1", "with cosine"],
        rows,
        caption=f"{benchmark}: rank correlation over {len(pairs)} ordered pairs with the pair's cross mAP (Spearman):",
    )
    figure = scatter_figure(
        f"{benchmark}: alignment and retrieval, a point for each ordered pair of languages",
        "recall@1 of the parallel question",
        "cross mAP",
        points,
    )
    section.add_figure(f"alignment-{benchmark}", "alignment and retrieval", figure)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> str:
    """Return Spearman's rank correlation as text; a dash if one of the arrays is constant."""
    return f"{stats.spearmanr(x, y).statistic:+.2f}" if np.ptp(x) and np.ptp(y) else "–"


def _add_recall_change(section: ReportSection, results: StudyResults, benchmark: str, pairs: list[str]) -> None:
    """Draw recall@1 of the parallel question by pair: the reference minus the first method."""
    first, reference = results.methods[0], results.config.reference
    metric = f"{benchmark}/alignment/recall@1"
    difference = _pair_means(results, reference, metric, pairs) - _pair_means(results, first, metric, pairs)
    changes = dict(zip(pairs, difference.tolist(), strict=True))
    known = results.languages(benchmark)  # a code may have a hyphen, as zh-TW
    languages = [one for one in known if any(f"{one}-{other}" in changes for other in known)]
    change = np.array([[changes.get(f"{one}-{other}", np.nan) for other in languages] for one in languages])
    title = f"{benchmark}: recall@1 of {reference} minus that of {first}"
    section.add_figure(f"recall-{benchmark}", title, change_figure(title, languages, change, "recall@1"))


def gap_section(results: StudyResults) -> ReportSection:
    """List and draw monolingual minus cross-lingual mAP, by language and pair."""
    section = ReportSection("The gap between monolingual and cross-lingual retrieval")
    for benchmark in benchmarks_of(results):
        metric = f"{benchmark}/gap/map"
        if not results.has(metric):
            continue
        by_language = _by_language(results, metric)
        averages = [
            [label, *(format_estimate(name, estimate) for estimate in results.estimates(name).values())]
            for label, name in (("all", metric), ("all, pools of one size", f"{metric}_matched"))
            if results.has(name)
        ]
        section.add_table(
            ["language", *results.methods],
            [*averages, *_language_rows(results, metric, by_language)],
            caption=f"{benchmark}: mAP within a language minus the mean over the passages of the other languages, by "
            "question language. A method that is poor at both has a small gap, too: compare the results.",
        )
        figure = bars_figure(f"{benchmark}: the gap by question language", "gap in mAP", by_language)
        section.add_figure(f"gap-{benchmark}", f"{benchmark}: the gap", figure)
        for method in results.methods:
            languages, matrix = results.matrix(method, benchmark)
            pair_gap = matrix - np.diag(matrix)[:, None]
            np.fill_diagonal(pair_gap, np.nan)
            title = f"{benchmark}, {method}: mAP of a pair minus that within the question's language"
            section.add_figure(
                f"gap-matrix-{benchmark}--{word_name(method)}", title, change_figure(title, languages, pair_gap)
            )
    return section


OPTIONAL_SECTIONS: dict[SectionName, Callable[[StudyResults], ReportSection]] = {
    "levels": levels_section,
    "languages": languages_section,
    "robustness": robustness_section,
    "scale": scale_section,
    "alignment": alignment_section,
    "gap": gap_section,
    "alpha": alpha_section,
}


def _whole_metrics(results: StudyResults) -> list[str]:
    """Return the study's metrics without prefixes of drops and without a language, pair or level."""
    originals = (without_drop(metric) for metric in results.config.measures)
    return list(dict.fromkeys("/".join(metric.split("/")[:3]) for metric in originals))


def _by_language(results: StudyResults, metric: str) -> dict[str, dict[str, Estimate]]:
    """Return a metric's estimates: method -> query language -> estimate."""
    languages = [x for x in results.languages(metric.partition("/")[0]) if results.has(f"{metric}/{x}")]
    return {method: {x: results.estimate(method, f"{metric}/{x}") for x in languages} for method in results.methods}


def _language_rows(results: StudyResults, metric: str, by_language: dict[str, dict[str, Estimate]]) -> list[list[str]]:
    languages = by_language[results.methods[0]]
    return [[x, *(format_estimate(metric, by_language[method][x]) for method in results.methods)] for x in languages]
