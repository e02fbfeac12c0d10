"""Metrics as sums over queries, from the per-query table alone.

A metric is a mean of means: over queries, then over languages or pairs of them. So it is a weighted sum over queries,
and so are differences of metrics. What a report says can be worked out anew from its `per_query.parquet`, and parts of
it that the report does not name, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hbt_ray.data.benchmarks.miracl import resource_level
from hbt_ray.errors import UserError
from hbt_ray.evaluation.metrics import GAP, find_metric
from hbt_ray.evaluation.retrieval_metrics import LEVELS

Key = tuple[str, str, str]  # query id, its language, the passages' language ("": all)
LanguagePair = tuple[str, str]  # question language, passage language


@dataclass(frozen=True, slots=True)
class PerQueryContributions:
    """A metric as a sum with a term for each query in each pool."""

    keys: tuple[Key, ...]
    groups: tuple[str, ...]  # of each term, the same for translations of one question
    terms: np.ndarray  # float64

    @property
    def value(self) -> float:
        return float(self.terms.sum())

    def __sub__(self, other: PerQueryContributions) -> PerQueryContributions:
        """The difference, query by query. Raises UserError where the queries are not the same."""
        if self.keys != other.keys or self.groups != other.groups:
            raise UserError("these runs were not measured on the same queries; evaluate them on the same benchmark")
        return replace(self, terms=self.terms - other.terms)

    def by_group(self) -> np.ndarray:
        """(groups,) the terms of each group together, groups sorted."""
        names = sorted(set(self.groups))
        number = {name: place for place, name in enumerate(names)}
        return np.bincount([number[group] for group in self.groups], self.terms, len(names))


def mean_of(sums: Sequence[PerQueryContributions]) -> PerQueryContributions:
    """The mean, query by query. Raises UserError where the queries are not the same."""
    for other in sums[1:]:
        sums[0] - other  # refuses others' queries
    return replace(sums[0], terms=np.mean([own.terms for own in sums], axis=0))


def query_sum(table: pa.Table, metric: str) -> PerQueryContributions:
    """A metric of a per-query table as a sum over queries.

    Args:
        metric: a metric's name without its benchmark, such as `mono/map`, `multi/rank_distance`, `cross/map/ar-en` or
            `gap/map`. A part behind it is a question language, a pair of languages, or a level of resources:
            `cross/map/low-resource` are the pairs with such a language on either side.

    Raises:
        UserError: the table lacks what is needed, or nothing in it counts.
    """
    setting, _, rest = metric.partition("/")
    name, _, part = rest.partition("/")
    column = find_metric(f"/{setting}/{name}").column
    wanted = ["query_id", "language", "passage_language", "group", "setting", column]
    missing = [needed for needed in wanted if needed not in table.column_names]
    if missing:
        raise UserError(f"a per_query.parquet has no column {missing[0]!r}; evaluate that model anew")
    settings = ("mono", "cross") if setting == GAP else (setting,)
    found: dict[Key, tuple[str, float]] = {}
    cells: dict[str, dict[LanguagePair, int]] = {own: {} for own in settings}
    for query, language, answered, group, own, value in zip(*table.select(wanted).to_pydict().values(), strict=True):
        cell = (language, answered or "")
        if own in cells and value is not None and (not part or _is_in(part, own, cell)):
            found[query, *cell] = (group, value)
            cells[own][cell] = cells[own].get(cell, 0) + 1
    if not found:
        raise UserError(f"nothing in a per_query.parquet counts for {metric}; choose another measure")
    weights = _gap_weights(cells) if setting == GAP else _weights(cells[setting])
    counted = sorted(key for key in found if key[1:] in weights)
    return PerQueryContributions(
        tuple(counted),
        tuple(found[key][0] for key in counted),
        np.array([found[key][1] * weights[key[1], key[2]] for key in counted]),
    )


def _is_in(part: str, setting: str, cell: LanguagePair) -> bool:
    if part in LEVELS:
        languages = cell if setting == "cross" else cell[:1]
        return any(f"{resource_level(language)}-resource" == part for language in languages)
    return part in (cell[0], "-".join(cell))


def _weights(cells: dict[LanguagePair, int]) -> dict[LanguagePair, float]:
    """Of a query in each cell: cells weigh the same, and queries within a cell."""
    return {cell: 1 / (len(cells) * count) for cell, count in cells.items()}


def _gap_weights(cells: dict[str, dict[LanguagePair, int]]) -> dict[LanguagePair, float]:
    """Of each question language its mono mAP less the mean of its cross mAPs; languages weigh the same."""
    others: dict[str, list[LanguagePair]] = {}
    for cell in cells["cross"]:
        others.setdefault(cell[0], []).append(cell)
    both = [language for language in others if (language, language) in cells["mono"]]
    weights: dict[LanguagePair, float] = {}
    for language in both:
        weights[language, language] = 1 / (len(both) * cells["mono"][language, language])
        for cell in others[language]:
            weights[cell] = -1 / (len(both) * len(others[language]) * cells["cross"][cell])
    return weights
