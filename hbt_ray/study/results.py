"""A study's numbers, computed from the per-query tables of its experiments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from hbt_ray.errors import ConfigError, UserError
from hbt_ray.evaluation.method_difference import MethodDifference, compare_methods
from hbt_ray.evaluation.metrics import DROP, WORST_DROP, find_metric
from hbt_ray.evaluation.per_query import PerQueryContributions, mean_of, query_sum
from hbt_ray.evaluation.report import read_per_query, read_report
from hbt_ray.evaluation.significance import CONFIDENCE, Difference, holm, randomisation_test
from hbt_ray.study.claims import ClaimResult
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import list_experiments
from hbt_ray.study.placebo import Placebo, placebo
from hbt_ray.utils.caching import lru_cached_method


@dataclass(frozen=True, slots=True)
class Estimate:
    """A method's metric over its seeds."""

    values: tuple[float, ...]  # by seed
    mean: float
    half_width: float | None  # of the 95% confidence interval by Student's t; None for one seed


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method minus the reference, by one metric."""

    method: str
    metric: str
    models: Difference  # of these models, each query with its mean over the seeds
    p_of_models: float  # Holm's correction over all comparisons of the study
    methods: MethodDifference | None  # over seeds and clusters of queries; None: not known, as with one seed or cluster
    p_of_methods: float | None  # Holm's correction, too
    by_seed: tuple[float, ...]  # the difference of each seed

    @property
    def seeds_agreeing(self) -> int:
        """The number of seeds whose difference has the sign of the mean difference."""
        return sum(difference * self.models.mean > 0 for difference in self.by_seed)


@dataclass(frozen=True, slots=True)
class StoredReport:
    """The part of a `report.json` that a study reads."""

    metrics: dict[str, float]
    counts: dict[str, int]
    fingerprint: str  # of the benchmark
    split: str  # of the benchmark; "" is the default one, or that of a report of an earlier version


class StudyResults:
    """The metrics of a study's finished experiments.

    A metric is named as in reports: `miracl/mono/ndcg@10`, or with a part of it, `miracl/mono/ndcg@10/low-resource`
    (see `per_query.query_sum`). The prefix `drop/` or `worst_drop/` makes it the loss by perturbed queries: how much
    worse the metric is on them than on the original ones, its mean over the perturbations or its maximum.
    """

    def __init__(self, config: StudyConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        experiments = list_experiments(config, config.run.evaluate.benchmarks)
        self.experiments = {(experiment.method_name, experiment.seed): experiment for experiment in experiments}

    @property
    def methods(self) -> list[str]:
        return list(self.config.methods)

    @lru_cached_method(maxsize=None)
    def report(self, method: str, seed: int, benchmark: str) -> StoredReport:
        """Return an experiment's report. Raises UserError if it was not evaluated on the benchmark."""
        data = read_report(self._folder(method, seed, benchmark))
        return StoredReport(data["metrics"], data["counts"], data["fingerprint"], data.get("split") or "")

    def first_report(self, benchmark: str) -> StoredReport:
        """Return the report of the first method and seed, for what is the same in all of them."""
        return self.report(self.methods[0], self.config.seeds[0], benchmark)

    def reported(self, method: str, metric: str) -> list[float]:
        """Return a metric of a method's reports, by seed; NaN where a report lacks it."""
        benchmark = metric.partition("/")[0]
        return [float(self.report(method, seed, benchmark).metrics.get(metric, np.nan)) for seed in self.config.seeds]

    @lru_cached_method(maxsize=None)
    def table(self, method: str, seed: int, benchmark: str) -> pa.Table:
        """Return an experiment's per-query table. Raises UserError if it was not evaluated on the benchmark."""
        return read_per_query(self._folder(method, seed, benchmark))

    @lru_cached_method(maxsize=None)
    def by_query(self, method: str, seed: int, metric: str) -> PerQueryContributions:
        """Return an experiment's metric as a sum over queries.

        Raises:
            UserError: the experiment was not evaluated by this metric.
        """
        return _contributions(self.config, metric, functools.partial(self.table, method, seed))

    def estimate(self, method: str, metric: str) -> Estimate:
        """Return a method's mean over its seeds, with its confidence interval.

        The values are those of the reports, or sums over queries where the reports lack the metric, which takes longer.

        Raises:
            UserError: as `by_query` does.
        """
        is_drop = metric.partition("/")[0] in (DROP, WORST_DROP)
        values = [] if is_drop else self.reported(method, metric)
        if is_drop or not np.isfinite(values).all():
            values = [self.by_query(method, seed, metric).value for seed in self.config.seeds]
        return estimate(values)

    def estimates(self, metric: str) -> dict[str, Estimate]:
        """Return the estimate of every method."""
        return {method: self.estimate(method, metric) for method in self.methods}

    def has(self, metric: str) -> bool:
        """Return whether the metric has a value, for example in a language or resource level."""
        benchmark, _, rest = metric.partition("/")
        table = self.table(self.methods[0], self.config.seeds[0], benchmark)
        try:
            query_sum(table, rest)
        except UserError:
            return False
        return True

    def comparisons(self, metrics: Sequence[str]) -> list[Comparison]:
        """Compare every other method with the reference, by each metric.

        1. Of the methods: test the differences of the seeds over seeds and clusters of queries.
        2. Of these models: average each query's contribution over the seeds, and test over clusters of queries.
        3. Correct the p-values of each kind by Holm's method over all methods and metrics.
        """
        reference = self.config.reference
        others = [method for method in self.methods if method != reference]
        pairs = [(method, metric) for metric in metrics for method in others]
        by_seed = [self.differences(method, reference, metric) for method, metric in pairs]
        models = [randomisation_test(mean_of(differences)) for differences in by_seed]
        methods = [compare_methods(differences) for differences in by_seed]
        p_of_models = holm([one.p_value for one in models])
        p_of_methods = iter(holm([one.p_value for one in methods if one is not None]))
        return [
            Comparison(
                *pairs[number],
                models[number],
                p_of_models[number],
                of_methods,
                None if of_methods is None else next(p_of_methods),
                tuple(difference.value for difference in by_seed[number]),
            )
            for number, of_methods in enumerate(methods)
        ]

    def tested_claims(self) -> list[ClaimResult]:
        """Test the claims of the study over seeds and clusters; p-values are corrected by Holm over the claims."""
        claims = self.config.claims
        found = [compare_methods(self.differences(one.method, one.versus, one.metric)) for one in claims]
        tested = [
            ClaimResult(claim, difference, claim.p_value(difference, higher_is_better=higher_is_better(claim.metric)))
            if difference is not None
            else ClaimResult(claim, None, None)
            for claim, difference in zip(claims, found, strict=True)
        ]
        corrected = iter(holm([one.p_value for one in tested if one.p_value is not None]))
        return [one if one.p_value is None else replace(one, p_value=next(corrected)) for one in tested]

    def placebos(self, metric: str) -> dict[str, Placebo]:
        """Return how often each method is called different from itself, of the methods for which that is known."""
        found = {
            method: placebo([self.by_query(method, seed, metric) for seed in self.config.seeds])
            for method in self.methods
        }
        return {method: one for method, one in found.items() if one is not None}

    def differences(self, method: str, versus: str, metric: str) -> list[PerQueryContributions]:
        """Return a method's metric minus that of another method, for each seed. Raises UserError as `by_query` does."""
        return [self.by_query(method, seed, metric) - self.by_query(versus, seed, metric) for seed in self.config.seeds]

    def matrix(self, method: str, benchmark: str) -> tuple[list[str], np.ndarray]:
        """Return mAP by query and passage language, the mean over seeds.

        Returns:
            The L languages, and mAP (L, L), NaN for a pair without judgements.
        """
        languages = self.languages(benchmark)
        matrix = np.full((len(languages), len(languages)), np.nan)
        for row, query_language in enumerate(languages):
            for column, passage_language in enumerate(languages):
                is_same = query_language == passage_language
                part = f"mono/map/{query_language}" if is_same else f"cross/map/{query_language}-{passage_language}"
                matrix[row, column] = np.mean(self.reported(method, f"{benchmark}/{part}"))
        return languages, matrix

    def languages(self, benchmark: str) -> list[str]:
        """Return the query languages of a benchmark."""
        table = self.table(self.methods[0], self.config.seeds[0], benchmark)
        return sorted(set(table["language"].to_pylist()))

    def _folder(self, method: str, seed: int, benchmark: str) -> Path:
        experiment = self.experiments[method, seed]
        folder = experiment.run_dir(self.folder).evaluations / benchmark
        if not folder.exists():
            raise UserError(
                f"{experiment.label} was not evaluated on {benchmark!r}; name it in run.evaluate.benchmarks or made"
            )
        return folder


def check_measures(config: StudyConfig, tables: Mapping[str, pa.Table]) -> None:
    """Check, before any work, that every metric of a study has a value.

    Args:
        config: of the study.
        tables: of `judged_queries`, by the name of a benchmark or a perturbed benchmark.

    Raises:
        ConfigError: a metric is unknown or has a depth that is not computed, or its benchmark is not evaluated or gives
            it no value, as rank distance on a benchmark whose queries have relevant passages in one language only.
    """
    evaluate = config.run.evaluate
    depth = None if evaluate.index == "flat" else evaluate.index_depth
    named = dict.fromkeys(config.measures, "measures has")
    named = {claim.metric: "a claim has" for claim in config.claims} | named
    for metric, where in named.items():
        benchmark = without_drop(metric).partition("/")[0]
        if benchmark not in tables:
            names = ", ".join(tables)
            raise ConfigError(f"{where} {metric}, and no benchmark {benchmark!r} is evaluated; there are {names}")
        try:
            _contributions(config, metric, tables.__getitem__)
        except UserError as error:
            raise ConfigError(f"{where} {metric}, which has no value on {benchmark}: {error}") from None
        name, known = without_drop(metric).split("/")[2], find_metric(without_drop(metric))
        if name not in (known.name, known.name_at(depth)):
            raise ConfigError(f"{where} {metric}, whose depth is not computed; write {known.name_at(depth)}")


def _contributions(config: StudyConfig, metric: str, table_of: Callable[[str], pa.Table]) -> PerQueryContributions:
    """Return a metric as a sum over queries.

    Args:
        config: of the study.
        metric: its full name, with a prefix or without.
        table_of: returns the per-query table of a benchmark.
    """
    prefix, _, rest = metric.partition("/")
    if prefix not in (DROP, WORST_DROP):
        return query_sum(table_of(prefix), rest)
    benchmark, _, name = rest.partition("/")
    original = query_sum(table_of(benchmark), name)
    changed = [query_sum(table_of(f"{benchmark}-{one}"), name) for one in config.run.evaluate.perturbations]
    drops = [original - one if higher_is_better(rest) else one - original for one in changed]
    if not drops:
        raise UserError(f"{metric} needs perturbed queries; write run.evaluate.perturbations=[typos]")
    return mean_of(drops) if prefix == DROP else max(drops, key=lambda drop: drop.value)


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds, and its 95% confidence interval by Student's t.

    >>> estimate([0.1, 0.2, 0.3]).half_width  # t(0.975, 2) * 0.1 / sqrt(3)
    0.2484...
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(tuple(values), mean, None)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(tuple(values), mean, t * float(np.std(values, ddof=1)) / len(values) ** 0.5)


def higher_is_better(metric: str) -> bool:
    """Return whether a higher value is better; of a drop, a lower one is."""
    return not metric.startswith((f"{DROP}/", f"{WORST_DROP}/")) and find_metric(metric).higher_is_better


def without_drop(metric: str) -> str:
    """Return the name of the metric on the original queries.

    >>> without_drop("worst_drop/beir-scifact/multi/map")
    'beir-scifact/multi/map'
    """
    return metric.removeprefix(f"{DROP}/").removeprefix(f"{WORST_DROP}/")
