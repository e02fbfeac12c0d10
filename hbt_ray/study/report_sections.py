"""The sections of every study's report: its data, methods, results, comparisons, language bias and limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hbt_ray.config import flatten_settings, stored_settings
from hbt_ray.data.benchmarks import benchmark_slug
from hbt_ray.data.manifest import StoreManifest
from hbt_ray.data.types import benchmark_title
from hbt_ray.evaluation.method_difference import MethodDifference
from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.report import format_value, markdown_table
from hbt_ray.evaluation.significance import LEVEL, Difference, format_p
from hbt_ray.study.config import Method, StudyConfig
from hbt_ray.study.experiments import TrainingTokens
from hbt_ray.study.figures import change_figure, scatter_figure
from hbt_ray.study.results import Comparison, Estimate, StudyResults, higher_is_better, without_drop
from hbt_ray.utils.plotting import Figure

Manifests = Mapping[str, StoreManifest]  # token stores, by any name

# Settings of the run that the set-up lists.
_LISTED_SETTINGS = (
    *("model.path", "model.small.layers", "model.small.width", "mix.strategy", "mix.alpha", "train.steps"),
    *("train.global_batch_pairs", "train.learning_rate", "train.temperature", "train.precision", "model.dropout"),
    *("text.max_query_tokens", "text.max_passage_tokens"),
)
_NO_LICENCE = "not stated"
_ONE_SEED = "not known, because another seed gives another difference"
_ONE_CLUSTER = "Where all questions are one cluster the methods are not known, because others give another difference."


@dataclass(frozen=True, slots=True)
class StudyInputs:
    """What the experiments of a study were trained on, and how much; for the report."""

    trained_on: Manifests = field(default_factory=dict)  # token stores of the training
    pretrained_on: Manifests = field(default_factory=dict)  # of the pretraining
    training_tokens: Mapping[tuple[str, int], TrainingTokens] = field(default_factory=dict)  # by method and seed
    absent_benchmarks: tuple[str, ...] = ()  # optional ones that were not there


@dataclass(slots=True)
class ReportSection:
    """A section of the report, as Markdown, and its figures."""

    title: str
    lines: list[str] = field(default_factory=list)  # every block ends with an empty line
    figures: dict[str, Figure] = field(default_factory=dict)  # file name without its suffix -> figure

    def add_text(self, text: str) -> None:
        self.lines += [text, ""]

    def add_table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> None:
        if caption:
            self.add_text(caption)
        self.lines += [*markdown_table(headings, rows), ""]

    def add_figure(self, name: str, alt_text: str, figure: Figure) -> None:
        self.figures[name] = figure
        self.add_text(f"![{alt_text}](figures/{name}.png)")


def format_metric(metric: str, value: float, *, sign: bool = False) -> str:
    """Format a metric's value for a table, with a sign if wanted."""
    text = format_value(without_drop(metric), value)
    return f"+{text}" if sign and not text.startswith("-") else text


def format_estimate(metric: str, estimate: Estimate) -> str:
    """Format a mean with its confidence interval."""
    interval = "" if estimate.half_width is None else f" ± {format_metric(metric, estimate.half_width)}"
    return format_metric(metric, estimate.mean) + interval


def benchmarks_of(results: StudyResults) -> list[str]:
    """Return the benchmarks of the study's metrics."""
    return list(dict.fromkeys(without_drop(metric).partition("/")[0] for metric in results.config.measures))


def answer(results: StudyResults, comparisons: Sequence[Comparison]) -> str:
    """Return the answer by the first metric: the reference's mean, and its difference from every other method."""
    reference, metric = results.config.reference, results.config.measures[0]
    parts = []
    for comparison in (comparison for comparison in comparisons if comparison.metric == metric):
        change = format_metric(metric, -comparison.models.mean, sign=True)
        seeds = f"{comparison.seeds_agreeing} of {len(comparison.by_seed)} seeds"
        missing = "seed" if len(comparison.by_seed) < 2 else "cluster of questions"
        verdict = {
            "better": f"{reference} is worse",
            "worse": f"{reference} is better",
            "not known": f"it is not known, with one {missing}, whether there is a difference",
        }.get(_verdict(comparison), "no difference is shown")
        p_value = "" if comparison.p_of_methods is None else f"p {format_p(comparison.p_of_methods)}, "
        parts.append(f"against {comparison.method} {verdict} ({change}, {p_value}{seeds})")
    mean = format_metric(metric, results.estimate(reference, metric).mean)
    return f"In {display_name(metric)} {reference} has {mean}; " + "; ".join(parts) + "."


def data_section(results: StudyResults, inputs: StudyInputs) -> ReportSection:
    """Describe the corpora and the benchmarks: sizes, languages, left-out items, licences."""
    section = ReportSection("Data")
    for purpose, manifests in (("Trained on", inputs.trained_on), ("Pretrained on", inputs.pretrained_on)):
        if manifests or purpose == "Trained on":
            section.add_table(
                [
                    "corpus",
                    "items",
                    "held out",
                    "languages",
                    "left out: in a test set",
                    "left out: repeated",
                    "licence",
                ],
                _corpus_rows(results.config, manifests),
                caption=f"{purpose}; an item is a question and its passage, or a text, in several languages:",
            )
    section.add_table(
        ["benchmark", "queries", "passages", "languages", "files", "licence", "fingerprint"],
        [_benchmark_row(results, name) for name in results.config.run.evaluate.benchmarks],
        caption="Evaluated on:",
    )
    if inputs.absent_benchmarks:
        section.add_text(f"Not evaluated on {', '.join(inputs.absent_benchmarks)}: the files were not there.")
    return section


def _corpus_rows(config: StudyConfig, manifests: Manifests) -> list[list[str]]:
    """Return a row for each corpus; stores that hold the same of a corpus share one."""
    rows: dict[tuple[str, ...], None] = {}
    for manifest in manifests.values():
        for name, source in manifest.sources.items():
            counts = manifest.counts[name]
            row = (
                name,
                f"{source.items():,}",
                f"{source.items('validation'):,}",
                str(len(source.languages)),
                f"{len(counts['items_dropped_for_evaluation']):,}",
                f"{len(counts['items_dropped_as_repeated']):,}",
                config.licences.get(name, _NO_LICENCE),
            )
            rows[row] = None
    return [list(row) for row in rows]


def _benchmark_row(results: StudyResults, name: str) -> list[str]:
    config, slug = results.config, benchmark_slug(name)
    report = results.first_report(slug)
    counts = report.counts
    source = next((made.corpus.name for other, made in config.made.items() if benchmark_slug(other) == slug), None)
    return [
        benchmark_title(slug, report.split),
        f"{counts['queries']:,}",
        f"{counts['passages']:,}",
        str(counts["languages"]),
        f"made from {source}" if source else "unchanged",
        config.licences.get(source or slug, _NO_LICENCE),
        report.fingerprint,
    ]


def setup_section(config: StudyConfig, inputs: StudyInputs) -> ReportSection:
    """Describe the settings of the run, the methods with the size of their training, and pretrainings."""
    section = ReportSection("Set-up")
    of_run = flatten_settings(stored_settings(config.run))
    settings = {
        key: [key, str(of_run[key])]
        for key in _LISTED_SETTINGS
        if of_run.get(key) is not None and not (config.run.model.path and key.startswith("model.small."))
    }
    if config.run.model.path is None:
        settings = {"model.path": ["encoder", "random weights, and a tokenizer trained on the corpora"], **settings}
    changed = {key for key in settings if any(_changes(method, key) for method in config.methods.values())}
    shared = [row for key, row in settings.items() if key not in changed]
    section.add_table(["setting", "value"], shared, caption="All methods share:")
    if changed:
        others = [row for key, row in settings.items() if key in changed]
        section.add_table(["setting", "value"], others, caption="The methods that do not change them share:")
    rows = [[name, "; ".join(_describe_method(method))] for name, method in config.methods.items()]
    if inputs.training_tokens:
        for row in rows:
            sizes = [
                inputs.training_tokens[row[0], seed]
                for seed in config.seeds
                if (row[0], seed) in inputs.training_tokens
            ]
            row += [_range([size.steps for size in sizes]), _range([size.encoded_tokens for size in sizes])]
    headings = ["method", "description", *(("steps", "encoded tokens") if inputs.training_tokens else ())]
    section.add_table(headings, rows, caption="They differ in:")
    for name, pretraining in config.pretraining.items():
        parts = [f"continues from “{pretraining.after}”"] if pretraining.after else []
        parts += [f"{key} = {_setting_text(value)}" for key, value in pretraining.settings.items()]
        section.add_text(f"Pretraining “{name}”: {'; '.join(parts)}.")
    return section


def _changes(method: Method, key: str) -> bool:
    """Return whether a method may have another value of a setting than the run."""
    if key == "train.steps" and method.tokens_of:
        return True
    return any(f"{key}.".startswith(f"{name}.") for name in method.settings)


def _range(values: Sequence[int]) -> str:
    """Return the least and the largest of the seeds' values; "" without any."""
    bounds = sorted({min(values, default=0), max(values, default=0)})
    return " to ".join(f"{bound:,}" for bound in bounds) if values else ""


def _describe_method(method: Method) -> list[str]:
    parts = [] if method.trained or method.encoder_of else ["not fine-tuned"]
    parts += [f"{key} = {_setting_text(value)}" for key, value in method.settings.items()]
    parts += [f"starts from the pretraining “{method.pretrained}”"] if method.pretrained else []
    parts += [f"hard negatives mined with {method.mined_with}"] if method.mined_with else []
    parts += [f"distilled from {method.taught_by}"] if method.taught_by else []
    parts += [f"the encoder of {method.encoder_of}"] if method.encoder_of else []
    parts += [f"weights averaged with those of {method.averaged_with}"] if method.averaged_with else []
    parts += [f"language removed by {method.debiased}"] if method.debiased else []
    parts += [f"as many encoded tokens as {method.tokens_of}"] if method.tokens_of else []
    return parts or ["the shared settings"]


def _setting_text(value: object) -> str:
    """Return a setting's value as text; of corpora, their names."""
    if isinstance(value, list) and all(isinstance(entry, dict) and "format" in entry for entry in value):
        return ", ".join(str(entry.get("name") or entry.get("path") or entry["format"]) for entry in value)
    return str(value)


def results_section(results: StudyResults) -> ReportSection:
    """List every method's metrics with confidence intervals; the best ones are bold."""
    section = ReportSection("Results")
    columns = []
    for metric in results.config.measures:
        estimates = results.estimates(metric)
        best = (max if higher_is_better(metric) else min)(estimate.mean for estimate in estimates.values())
        columns.append(
            [
                f"**{text}**" if format_metric(metric, estimate.mean) == format_metric(metric, best) else text
                for estimate in estimates.values()
                if (text := format_estimate(metric, estimate))
            ]
        )
    headings = [
        f"{display_name(metric)} {'↑' if higher_is_better(metric) else '↓'}" for metric in results.config.measures
    ]
    seeds = ", ".join(map(str, results.config.seeds))
    section.add_text(f"Means over the seeds {seeds}, with 95% confidence intervals by Student's t. The best are bold.")
    section.add_table(["method", *headings], [list(row) for row in zip(results.methods, *columns, strict=True)])
    return section


def published_section(config: StudyConfig) -> ReportSection:
    """Cite the values of others by the study's metrics, as far as they published them."""
    section = ReportSection("Published values")
    section.add_text("They are cited for comparison. Data, encoders and seeds differ from those of this study.")
    for published in config.published:
        metrics = [metric for metric in config.measures if any(metric in row for row in published.values.values())]
        rows = [
            [method, *(format_metric(metric, row[metric]) if metric in row else "" for metric in metrics)]
            for method, row in published.values.items()
        ]
        if metrics:
            caption = f"{published.encoder}, {published.source}:"
            section.add_table(["method", *map(display_name, metrics)], rows, caption=caption)
    return section


def comparison_section(results: StudyResults, comparisons: Sequence[Comparison]) -> ReportSection:
    """List the difference of every method from the reference, its intervals and its corrected p-values."""
    section = ReportSection(f"Differences from {results.config.reference}")
    seeds = len(results.config.seeds)
    of_methods = f"over other seeds and other questions, by the {seeds} seeds of each" if seeds > 1 else _ONE_SEED
    section.add_text(
        f"Each method minus {results.config.reference}. The verdict, its p-value and its interval are of the methods: "
        f"{of_methods}. The last two columns are of these models, which another seed would change: over other "
        "questions, by Fisher's randomisation test, each question with its mean over the seeds. Questions that are not "
        "independent, such as translations or questions on one paragraph, are one cluster. P-values are corrected by "
        f"Holm's method over {len(comparisons)} comparisons; ≤ marks the least that a test can give."
    )
    if seeds > 1 and any(comparison.methods is None for comparison in comparisons):
        section.add_text(_ONE_CLUSTER)
    if any(comparison.models.is_grouped for comparison in comparisons):
        section.add_text("Evaluated by an earlier version: only the translations of a question are a cluster.")
    section.add_table(
        [
            *("method", "metric", "difference", "95% interval: the methods", "p (Holm)", "", "seeds"),
            *("95% interval: these models", "p: these models (Holm)"),
        ],
        [_comparison_row(comparison) for comparison in comparisons],
    )
    return section


def _comparison_row(comparison: Comparison) -> list[str]:
    metric = comparison.metric
    return [
        comparison.method,
        display_name(metric),
        format_metric(metric, comparison.models.mean, sign=True),
        _format_interval(metric, comparison.methods),
        format_p(comparison.p_of_methods),
        _verdict(comparison),
        f"{comparison.seeds_agreeing} of {len(comparison.by_seed)}",
        _format_interval(metric, comparison.models),
        format_p(comparison.p_of_models, at_floor=comparison.models.at_floor),
    ]


def _verdict(comparison: Comparison) -> str:
    if comparison.p_of_methods is None:
        return "not known"
    if comparison.p_of_methods >= LEVEL:
        return "no difference shown"
    is_better = (comparison.models.mean > 0) == higher_is_better(comparison.metric)
    return "better" if is_better else "worse"


def _format_interval(metric: str, difference: Difference | MethodDifference | None) -> str:
    if difference is None or not np.isfinite(difference.low):
        return "not known"
    return " to ".join(format_metric(metric, value, sign=True) for value in (difference.low, difference.high))


def bias_section(results: StudyResults) -> ReportSection:
    """Draw multi mAP over rank distance, and the change of mAP of each language pair."""
    section = ReportSection("Language bias, and the change of each language pair")
    reference = results.config.reference
    baseline = next(method for method in results.methods if method != reference)
    for benchmark in benchmarks_of(results):
        metrics = results.report(reference, results.config.seeds[0], benchmark).metrics
        distance, precision = f"{benchmark}/multi/rank_distance", f"{benchmark}/multi/map"
        if distance in metrics:
            points = {m: (results.reported(m, distance), results.reported(m, precision)) for m in results.methods}
            figure = scatter_figure(
                f"{benchmark}: language bias of each method, a point for each seed",
                "rank distance, in ranks (lower is fairer)",
                "multi mAP (higher is better)",
                points,
            )
            section.add_figure(f"bias-{benchmark}", f"{benchmark}: language bias of each method", figure)
        if f"{benchmark}/cross/map" in metrics:
            languages, before = results.matrix(baseline, benchmark)
            _, after = results.matrix(reference, benchmark)
            title = f"{benchmark}: mAP of {reference} minus that of {baseline}"
            section.add_figure(f"change-{benchmark}", title, change_figure(title, languages, after - before))
    return section


def limits_section(config: StudyConfig) -> ReportSection:
    """List what the study cannot show: the limits of its settings, and those of every such study."""
    section = ReportSection("Limits")
    section.lines += [*(f"- {limit}" for limit in (*config.limits, *_general_limits(config))), ""]
    return section


def _general_limits(config: StudyConfig) -> Iterator[str]:
    yield (
        f"The confidence intervals over {len(config.seeds)} seeds are wide. They measure the chance in training, and "
        "those of differences also that of the questions, not how the methods do with other corpora or encoders."
    )
    if config.made:
        names = ", ".join(f"{name} (from {made.corpus.name})" for name, made in config.made.items())
        yield (
            f"{names}: the files have the published format, not the published content. No number here is one of the "
            "published benchmarks. Where questions are parallel and not marked as such, the tests count their "
            "translations as independent."
        )
    if config.run.model.path is None:
        yield "The encoder is small and starts from random weights; a pretrained encoder may give other results."
