"""The chapters of a study's report that tell its numbers: those of every study, and those that a question needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from hbt_ray.errors import UserError
from hbt_ray.evaluation.metrics import DROP, WORST_DROP, display_name, find_metric
from hbt_ray.evaluation.per_query import query_sum
from hbt_ray.evaluation.report import markdown_table
from hbt_ray.evaluation.retrieval_metrics import LEVELS
from hbt_ray.evaluation.significance import LEVEL
from hbt_ray.study.figures import bars_figure, change_figure, lines_figure, scatter_figure
from hbt_ray.study.results import Comparison, Estimate, Results, estimate, higher_is_better
from hbt_ray.utils.plotting import Figure


@dataclass(slots=True)
class ReportSection:
    title: str
    lines: list[str] = field(default_factory=list)  # Markdown
    figures: dict[str, Figure] = field(default_factory=dict)  # name of the file without its ending -> figure


def shown(measure: str, value: float, sign: bool = False) -> str:
    """A value as tables show it: shares to four places, ranks to one."""
    share = find_metric(measure.removeprefix(f"{DROP}/").removeprefix(f"{WORST_DROP}/")).unit == "share"
    plus = "+" if sign else ""
    return f"{value:{plus}.4f}" if share else f"{value:{plus},.1f}"


def with_interval(measure: str, own: Estimate) -> str:
    width = "" if own.half_width is None else f" ± {shown(measure, own.half_width)}"
    return shown(measure, own.mean) + width


def results_chapter(results: Results) -> ReportSection:
    """Every method in every measure, the best of each in bold."""
    measures = results.config.measures
    estimates = {
        measure: {method: results.estimate(method, measure) for method in results.methods} for measure in measures
    }
    best = {
        measure: (max if higher_is_better(measure) else min)(own.mean for own in estimates[measure].values())
        for measure in measures
    }
    rows = []
    for method in results.methods:
        cells = []
        for measure in measures:
            text = with_interval(measure, estimates[measure][method])
            is_best = shown(measure, estimates[measure][method].mean) == shown(measure, best[measure])
            cells.append(f"**{text}**" if is_best else text)
        rows.append([method, *cells])
    headings = [
        "method",
        *(f"{display_name(measure)} {'↑' if higher_is_better(measure) else '↓'}" for measure in measures),
    ]
    seeds = ", ".join(map(str, results.config.seeds))
    lines = [
        f"Means over the seeds {seeds} with 95% confidence intervals by Student's t.",
        "",
        *markdown_table(headings, rows),
    ]
    return ReportSection("Results", lines)


def significance_chapter(results: Results, comparisons: Sequence[Comparison]) -> ReportSection:
    """What is more than chance."""
    rows = []
    for found in comparisons:
        measure, difference = found.measure, found.difference
        better = (difference.mean > 0) == higher_is_better(measure)
        verdict = ("better" if better else "worse") if found.p_value < LEVEL else "no difference shown"
        low, high = shown(measure, difference.low, sign=True), shown(measure, difference.high, sign=True)
        rows.append(
            [
                *(found.method, display_name(measure), shown(measure, difference.mean, sign=True)),
                *(f"{low} to {high}", f"{found.p_value:.4f}", verdict),
                f"{found.seeds_agreeing} of {len(found.by_seed)}",
            ]
        )
    reference = results.config.reference
    lines = [
        f"Each method less {reference}: Fisher's randomisation test over questions, translations of one question "
        "counted as one where the benchmark tells of them, each with its mean over the seeds; bootstrap intervals over "
        f"questions; p-values corrected by Holm over these {len(rows)} comparisons. The tests speak of other "
        "questions, not of other seeds: the last column tells in how many of these the difference has the same sign.",
        "",
        *markdown_table(["method", "measure", "difference", "95% interval", "p (Holm)", "", "seeds"], rows),
    ]
    return ReportSection(f"What is more than chance, against {reference}", lines)


def bias_chapter(results: Results) -> ReportSection:
    """Retrieval from the pool of all languages against its bias, and the change of each pair of languages."""
    chapter = ReportSection("Bias, and what changes for which pair")
    reference = results.config.reference
    baseline = next(method for method in results.methods if method != reference)
    for benchmark in _benchmarks(results):
        metrics = results.report(reference, results.config.seeds[0], benchmark)["metrics"]
        distance, precision = f"{benchmark}/multi/rank_distance", f"{benchmark}/multi/map"
        if distance in metrics:
            points = {m: (results.reported(m, distance), results.reported(m, precision)) for m in results.methods}
            name = f"bias-{benchmark}"
            chapter.figures[name] = scatter_figure(
                f"{benchmark}: bias over methods, a point for each seed",
                *("rank distance, in ranks (lower is fairer)", "multi mAP (higher is better)"),
                points,
            )
            chapter.lines += [f"![{benchmark}: bias over methods](figures/{name}.png)", ""]
        if f"{benchmark}/cross/map" in metrics:
            languages, before = results.matrix(baseline, benchmark)
            _, after = results.matrix(reference, benchmark)
            name = f"change-{benchmark}"
            title = f"{benchmark}: mAP of {reference} less that of {baseline}"
            chapter.figures[name] = change_figure(title, languages, after - before)
            chapter.lines += [f"![{title}](figures/{name}.png)", ""]
    return chapter


def levels_chapter(results: Results) -> ReportSection:
    """The measures by how much text a language has, MIRACL's levels."""
    chapter = ReportSection("By resource level")
    chapter.lines += ["By the levels of MIRACL's Wikipedias; a pair of languages counts at the level of either.", ""]
    for measure in _whole_measures(results):
        levels = [level for level in LEVELS if _has(results, f"{measure}/{level}")]
        if len(levels) < 2:
            continue
        parts = [f"{measure}/{level}" for level in levels]
        rows = [[m, *(with_interval(part, results.estimate(m, part)) for part in parts)] for m in results.methods]
        chapter.lines += [f"{display_name(measure)}:", "", *markdown_table(["method", *levels], rows), ""]
    return chapter


def languages_chapter(results: Results) -> ReportSection:
    """The first measure by question language."""
    chapter = ReportSection("By language")
    measure = _whole_measures(results)[0]
    benchmark = measure.partition("/")[0]
    languages = [x for x in results.languages(benchmark) if _has(results, f"{measure}/{x}")]
    own = {m: {x: results.estimate(m, f"{measure}/{x}") for x in languages} for m in results.methods}
    rows = [[x, *(with_interval(measure, own[m][x]) for m in results.methods)] for x in languages]
    chapter.figures["languages"] = bars_figure(f"{display_name(measure)}, by question language", "", own)
    chapter.lines += [
        *(f"{display_name(measure)}:", ""),
        *markdown_table(["language", *results.methods], rows),
        *("", f"![{display_name(measure)} by language](figures/languages.png)", ""),
    ]
    return chapter


def robustness_chapter(results: Results) -> ReportSection:
    """What perturbed queries cost."""
    chapter = ReportSection("Robustness")
    kinds = results.config.run.evaluate.perturbations
    chapter.lines += [
        "With m the measure on the queries as they are and m_g that on queries perturbed in way g, the mean drop is "
        "the mean of m - m_g over the ways and the worst-group drop the largest of them; the relative drop is the mean "
        "drop over m. Less is more robust; of two encoders with the same drop, the better one has lost less.",
        "",
    ]
    for measure in dict.fromkeys(m for m in _whole_measures(results) if "/rank_distance" not in m):
        benchmark, _, rest = measure.partition("/")
        asked = [measure, *(f"{benchmark}-{kind}/{rest}" for kind in kinds)]
        rows = []
        worst = {}
        for method in results.methods:
            mean, most = (results.estimate(method, f"{kind}/{measure}") for kind in (DROP, WORST_DROP))
            clean = results.estimate(method, measure)
            relative = estimate([drop / m if m else 0.0 for drop, m in zip(mean.values, clean.values, strict=True)])
            worst[method] = {"mean drop": mean, "worst-group drop": most}
            cells = [with_interval(own, results.estimate(method, own)) for own in asked]
            cells += [with_interval(measure, mean), with_interval(measure, most), f"{100 * relative.mean:.1f}%"]
            rows.append([method, *cells])
        headings = ["method", "as they are", *kinds, "mean drop ↓", "worst-group drop ↓", "relative drop ↓"]
        name = f"robustness-{benchmark}-{rest.replace('/', '-').replace('@', '-at-')}"
        chapter.figures[name] = bars_figure(f"{display_name(measure)}: what perturbed queries cost", "drop", worst)
        chapter.lines += [
            *(f"{display_name(measure)}:", "", *markdown_table(headings, rows), ""),
            *(f"![{display_name(measure)}: drops](figures/{name}.png)", ""),
        ]
    return chapter


def scale_chapter(results: Results) -> ReportSection:
    """The measures over the number of languages of the pretraining."""
    chapter = ReportSection("Over the number of pretraining languages")
    config = results.config
    counts = {
        method: len(config.pretraining[own.pretrained].settings["languages"])
        for method, own in config.methods.items()
        if own.pretrained is not None and config.pretraining[own.pretrained].settings.get("languages")
    }
    lines = {
        display_name(measure): [(n, results.estimate(method, measure)) for method, n in counts.items()]
        for measure in config.measures
    }
    levels = {
        display_name(measure): {
            method: results.estimate(method, measure).mean for method in results.methods if method not in counts
        }
        for measure in config.measures
    }
    title = "over the number of pretraining languages"
    chapter.figures["scale"] = lines_figure(title, "languages of the pretraining", lines, levels)
    chapter.lines += ["![measures over the number of languages](figures/scale.png)", ""]
    rows = [
        [method, ", ".join(config.pretraining[str(config.methods[method].pretrained)].settings["languages"])]
        for method in counts
    ]
    chapter.lines += [*markdown_table(["method", "languages of the pretraining"], rows), ""]
    trends = []
    for measure in config.measures:
        x = [n for method, n in counts.items() for _ in config.seeds]
        y = [value for method in counts for value in results.estimate(method, measure).values]
        found = stats.spearmanr(x, y)
        trends.append([display_name(measure), f"{found.statistic:+.2f}", f"{found.pvalue:.3f}"])
    chapter.lines += [
        *("Rank correlation with the number of languages, over the cells (Spearman):", ""),
        *markdown_table(["measure", "rho", "p"], trends),
    ]
    return chapter


_ALIGNMENT = {
    "cosine": "cosine of parallel",
    "cosine_of_others": "cosine of others",
    "recall@1": "recall@1",
    "recall@10": "recall@10",
    "uniformity": "uniformity",
}


def alignment_chapter(results: Results) -> ReportSection:
    """How near parallel texts lie, and whether that goes with retrieval."""
    chapter = ReportSection("Alignment")
    for benchmark in _benchmarks(results):
        for side, spoken_side in (("alignment", "questions"), ("passage_alignment", "passages")):
            prefix = f"{benchmark}/{side}"
            metrics = results.report(results.methods[0], results.config.seeds[0], benchmark)["metrics"]
            if f"{prefix}/cosine" not in metrics:
                continue
            rows = [
                [method, *(_plain(estimate(results.reported(method, f"{prefix}/{key}"))) for key in _ALIGNMENT)]
                for method in results.methods
            ]
            chapter.lines += [
                *(f"{benchmark}, {spoken_side} (means over ordered pairs of languages):", ""),
                *markdown_table(["method", *_ALIGNMENT.values()], rows),
                "",
            ]
        _align_pairs(results, benchmark, chapter)
    return chapter


def _align_pairs(results: Results, benchmark: str, chapter: ReportSection) -> None:
    """Recall of the parallel question by ordered pair, and its correlation with the pair's mAP."""
    metrics = results.report(results.methods[0], results.config.seeds[0], benchmark)["metrics"]
    start = f"{benchmark}/alignment/recall@1/"
    pairs = [name.removeprefix(start) for name in metrics if name.startswith(start)]
    pairs = [pair for pair in pairs if f"{benchmark}/cross/map/{pair}" in metrics]
    if not pairs:
        return
    points, rows = {}, []
    for method in results.methods:
        x, y, z = (
            np.array([np.mean(results.reported(method, f"{benchmark}/{name}/{pair}")) for pair in pairs])
            for name in ("alignment/recall@1", "cross/map", "alignment/cosine")
        )
        points[method] = (x.tolist(), y.tolist())
        cells = [stats.spearmanr(of, y) if np.ptp(of) and np.ptp(y) else None for of in (x, z)]
        rows.append([method, *("–" if own is None else f"{own.statistic:+.2f}" for own in cells)])
    name = f"alignment-{benchmark}"
    chapter.figures[name] = scatter_figure(
        f"{benchmark}: alignment and retrieval, a point for each ordered pair of languages",
        *("recall@1 of the parallel question", "cross mAP"),
        points,
    )
    languages = sorted({language for pair in pairs for language in pair.split("-")[:1]})
    change = np.full((len(languages), len(languages)), np.nan)
    for pair in pairs:
        asked, _, answered = pair.partition("-")
        if asked in languages and answered in languages:
            values = [
                np.mean(results.reported(method, f"{benchmark}/alignment/recall@1/{pair}"))
                for method in (results.methods[0], results.config.reference)
            ]
            change[languages.index(asked), languages.index(answered)] = values[1] - values[0]
    recall = f"recall-{benchmark}"
    title = f"{benchmark}: recall@1 of {results.config.reference} less that of {results.methods[0]}"
    chapter.figures[recall] = change_figure(title, languages, change, "recall@1")
    chapter.lines += [
        *(f"{benchmark}: rank correlation over {len(pairs)} ordered pairs of a pair's cross mAP (Spearman):", ""),
        *markdown_table(["method", "with recall@1", "with cosine"], rows),
        *("", f"![alignment and retrieval](figures/{name}.png)", ""),
        *(f"![{title}](figures/{recall}.png)", ""),
    ]


def gap_chapter(results: Results) -> ReportSection:
    """Monolingual less cross-lingual retrieval, by language and pair."""
    chapter = ReportSection("The gap between monolingual and cross-lingual retrieval")
    for benchmark in _benchmarks(results):
        measure = f"{benchmark}/gap/map"
        if not _has(results, measure):
            continue
        languages = [x for x in results.languages(benchmark) if _has(results, f"{measure}/{x}")]
        own = {m: {x: results.estimate(m, f"{measure}/{x}") for x in languages} for m in results.methods}
        rows = [["all", *(with_interval(measure, results.estimate(m, measure)) for m in results.methods)]]
        rows += [[x, *(with_interval(measure, own[m][x]) for m in results.methods)] for x in languages]
        name = f"gap-{benchmark}"
        chapter.figures[name] = bars_figure(f"{benchmark}: the gap by question language", "gap in mAP", own)
        chapter.lines += [
            f"{benchmark}: mAP within a language less the mean over the others' passages, by question language. A "
            "method that is bad at both has a small gap, too: read it beside the results.",
            *("", *markdown_table(["language", *results.methods], rows), ""),
            *(f"![{benchmark}: the gap](figures/{name}.png)", ""),
        ]
        for method in results.methods:
            names, matrix = results.matrix(method, benchmark)
            pair_gap = matrix - np.diag(matrix)[:, None]
            np.fill_diagonal(pair_gap, np.nan)
            file = f"gap-{benchmark}-{'-'.join(method.split())}"
            title = f"{benchmark}, {method}: mAP of a pair less that within the question's language"
            chapter.figures[file] = change_figure(title, names, pair_gap)
            chapter.lines += [f"![{title}](figures/{file}.png)", ""]
    return chapter


CHAPTERS: dict[str, Callable[[Results], ReportSection]] = {
    "levels": levels_chapter,
    "languages": languages_chapter,
    "robustness": robustness_chapter,
    "scale": scale_chapter,
    "alignment": alignment_chapter,
    "gap": gap_chapter,
}


def _benchmarks(results: Results) -> Iterator[str]:
    """Those of the measures, each once."""
    seen = dict.fromkeys(m.removeprefix(f"{DROP}/").removeprefix(f"{WORST_DROP}/") for m in results.config.measures)
    yield from dict.fromkeys(measure.partition("/")[0] for measure in seen)


def _whole_measures(results: Results) -> list[str]:
    """The study's measures without their parts and drops, each once."""
    bare = (m.removeprefix(f"{DROP}/").removeprefix(f"{WORST_DROP}/") for m in results.config.measures)
    return list(dict.fromkeys("/".join(measure.split("/")[:3]) for measure in bare))


def _has(results: Results, measure: str) -> bool:
    benchmark, _, rest = measure.partition("/")
    table = results.table(results.methods[0], results.config.seeds[0], benchmark)
    try:
        return bool(query_sum(table, rest).keys)
    except UserError:
        return False


def _plain(own: Estimate) -> str:
    return f"{own.mean:.3f}" + ("" if own.half_width is None else f" ± {own.half_width:.3f}")
