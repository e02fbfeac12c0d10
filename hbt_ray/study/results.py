"""What a study's cells came to, worked out from the per-query tables that they left."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from hbt_ray.errors import UserError
from hbt_ray.evaluation.metrics import DROP, GAP, WORST_DROP, find_metric
from hbt_ray.evaluation.per_query import PerQueryContributions, mean_of, query_sum
from hbt_ray.evaluation.significance import CONFIDENCE, Difference, holm, randomisation_test
from hbt_ray.study.config import StudyConfig
from hbt_ray.study.experiments import Experiment, cells_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure of a method over its seeds."""

    values: tuple[float, ...]  # by seed
    mean: float
    half_width: float | None  # of the 95% confidence interval by Student's t; None for one seed


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against the reference in one measure."""

    method: str
    measure: str
    difference: Difference  # the method less the reference
    by_seed: tuple[float, ...]  # the same of each seed alone
    p_value: float  # corrected by Holm over all comparisons of the study

    @property
    def seeds_agreeing(self) -> int:
        """In how many seeds the difference has the sign that it has in their mean."""
        return sum(own * self.difference.mean > 0 for own in self.by_seed)


class Results:
    """The finished cells of a study.

    A measure is a metric as reports name it, `miracl/mono/ndcg@10` or, of some of it,
    `miracl/mono/ndcg@10/low-resource` (see `per_query.query_sum`). With `drop/` or `worst_drop/` before it, it is the
    metric less what it is with perturbed queries: the mean over perturbations, or the worst of them.
    """

    def __init__(self, config: StudyConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.cells = {(cell.name, cell.seed): cell for cell in cells_of(config, config.run.evaluate.benchmarks)}
        self._table = functools.lru_cache(maxsize=None)(self._read_table)
        self._sum = functools.lru_cache(maxsize=None)(self._sum_of)

    @property
    def methods(self) -> list[str]:
        return list(self.config.methods)

    def report(self, method: str, seed: int, benchmark: str) -> dict[str, Any]:
        """What `report.json` holds. Raises UserError where the cell was not measured on the benchmark."""
        found: dict[str, Any] = json.loads(self._file(method, seed, benchmark, "report.json").read_bytes())
        return found

    def reported(self, method: str, metric: str) -> list[float]:
        """A metric of a method's reports, by seed; NaN where they lack it."""
        benchmark = metric.partition("/")[0]
        return [
            float(self.report(method, seed, benchmark)["metrics"].get(metric, np.nan)) for seed in self.config.seeds
        ]

    def table(self, method: str, seed: int, benchmark: str) -> pa.Table:
        """A cell's per-query table. Raises UserError where the cell was not measured on the benchmark."""
        return self._table(method, seed, benchmark)

    def by_query(self, method: str, seed: int, measure: str) -> PerQueryContributions:
        """A measure of a cell as a sum over queries. Raises UserError where it cannot be."""
        return self._sum(method, seed, measure)

    def estimate(self, method: str, measure: str) -> Estimate:
        values = [self.by_query(method, seed, measure).value for seed in self.config.seeds]
        return estimate(values)

    def comparisons(self, measures: Sequence[str]) -> list[Comparison]:
        """Every other method against the reference, in each of the measures; queries count their mean over seeds."""
        found = []
        for measure in measures:
            of_reference = self._mean(self.config.reference, measure)
            for method in self.methods:
                if method != self.config.reference:
                    difference = randomisation_test(self._mean(method, measure) - of_reference)
                    found.append((method, measure, difference, self._by_seed(method, measure)))
        corrected = holm([difference.p_value for _, _, difference, _ in found])
        return [Comparison(*entry, p_value) for entry, p_value in zip(found, corrected, strict=True)]

    def matrix(self, method: str, benchmark: str) -> tuple[list[str], np.ndarray]:
        """mAP by question and passage language, the mean over seeds: languages, (L, L); NaN where nothing is judged."""
        languages = self.languages(benchmark)
        matrix = np.full((len(languages), len(languages)), np.nan)
        for (row, asked), (column, answered) in (
            (one, other) for one in enumerate(languages) for other in enumerate(languages)
        ):
            metric = (
                f"{benchmark}/mono/map/{asked}" if asked == answered else f"{benchmark}/cross/map/{asked}-{answered}"
            )
            matrix[row, column] = np.mean(self.reported(method, metric))
        return languages, matrix

    def languages(self, benchmark: str) -> list[str]:
        table = self.table(self.methods[0], self.config.seeds[0], benchmark)
        return sorted(set(table["language"].to_pylist()))

    def cell(self, method: str, seed: int) -> Experiment:
        return self.cells[method, seed]

    def _by_seed(self, method: str, measure: str) -> tuple[float, ...]:
        reference = self.config.reference
        return tuple(
            self.by_query(method, seed, measure).value - self.by_query(reference, seed, measure).value
            for seed in self.config.seeds
        )

    def _mean(self, method: str, measure: str) -> PerQueryContributions:
        return mean_of([self.by_query(method, seed, measure) for seed in self.config.seeds])

    def _sum_of(self, method: str, seed: int, measure: str) -> PerQueryContributions:
        kind, _, metric = measure.partition("/")
        if kind not in (DROP, WORST_DROP):
            return query_sum(self.table(method, seed, kind), metric)
        benchmark, _, rest = metric.partition("/")
        clean = query_sum(self.table(method, seed, benchmark), rest)
        drops = [
            clean - query_sum(self.table(method, seed, f"{benchmark}-{perturbation}"), rest)
            for perturbation in self.config.run.evaluate.perturbations
        ]
        if not drops:
            raise UserError(f"{measure} needs perturbed queries; write run.evaluate.perturbations=[typos]")
        return mean_of(drops) if kind == DROP else max(drops, key=lambda drop: drop.value)

    def _read_table(self, method: str, seed: int, benchmark: str) -> pa.Table:
        return pq.read_table(self._file(method, seed, benchmark, "per_query.parquet"))

    def _file(self, method: str, seed: int, benchmark: str, name: str) -> Path:
        cell = self.cells[method, seed]
        file = cell.folder(self.folder).evaluations / benchmark / name
        if not file.exists():
            raise UserError(
                f"{cell.label} was not measured on {benchmark!r}; name it in run.evaluate.benchmarks or made"
            )
        return file


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over seeds, and Student's t interval around it.

    >>> estimate([0.1, 0.2, 0.3]).half_width  # t(0.975, 2) * 0.1 / sqrt(3)
    0.2484...
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(tuple(values), mean, None)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(tuple(values), mean, t * float(np.std(values, ddof=1)) / len(values) ** 0.5)


def higher_is_better(measure: str) -> bool:
    """Of a drop and of the gap between mono and cross, less is better."""
    kind, _, metric = measure.partition("/")
    if kind in (DROP, WORST_DROP) or metric.startswith(f"{GAP}/"):
        return False
    return find_metric(measure).higher_is_better
