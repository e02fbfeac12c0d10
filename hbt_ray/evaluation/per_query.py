"""Metrics as weighted sums over queries, computed from a per-query table.

A metric is a mean of means: over queries, then over languages or pairs of languages. So it is a weighted sum over
queries, and so is the difference of two runs' metrics. Every metric of a report can be recomputed from its
`per_query.parquet`, and also averages that the report does not list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.language_resources import resource_level
from hbt_ray.errors import UserError
from hbt_ray.evaluation.metrics import GAP, find_metric
from hbt_ray.evaluation.retrieval_metrics import LEVELS, WORST_TENTH

Key = tuple[str, str, str]  # query id, query language, passage language ("": all)
LanguagePair = tuple[str, str]  # query language, passage language


@dataclass(frozen=True, slots=True)
class PerQueryContributions:
    """A metric as a sum with one term for each query in each pool."""

    keys: tuple[Key, ...]
    groups: tuple[str, ...]  # of each term, equal for translations of one query
    terms: np.ndarray  # float64
    clusters: tuple[str, ...] | None = None  # of each term, equal for dependent queries; None: the groups

    @property
    def value(self) -> float:
        """The metric."""
        return float(self.terms.sum())

    def __sub__(self, other: PerQueryContributions) -> PerQueryContributions:
        """Subtract query by query, with clusters where both have them.

        Raises:
            UserError: the queries are not the same.
        """
        if self.keys != other.keys or self.groups != other.groups:
            raise UserError("these runs were not evaluated on the same queries; evaluate them on the same benchmark")
        clusters = self.clusters if self.clusters == other.clusters else None
        return replace(self, terms=self.terms - other.terms, clusters=clusters)

    def by_cluster(self) -> ClusterSums:
        """Sum over clusters."""
        names = self.clusters or self.groups
        number_of = {name: number for number, name in enumerate(sorted(set(names)))}
        pair_of = {pair: number for number, pair in enumerate(dict.fromkeys(key[1:] for key in self.keys))}
        pairs = np.array([pair_of[key[1:]] for key in self.keys])
        means = np.bincount(pairs, self.terms) / np.bincount(pairs)
        numbers = [number_of[name] for name in names]
        return ClusterSums(
            np.bincount(numbers, self.terms),
            np.bincount(numbers, self.terms - means[pairs]),
            is_grouped=self.clusters is None,
        )


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """A metric as a sum over C clusters of queries, in the order of their names."""

    totals: np.ndarray  # (C,), whose sum is the metric
    deviations: np.ndarray  # (C,), of the terms less the mean of their pair of languages; their sum is 0
    is_grouped: bool  # the clusters are only the translations of a query: a table of an earlier version has no others


def mean_of(sums: Sequence[PerQueryContributions]) -> PerQueryContributions:
    """Average query by query. Raise UserError if the queries are not the same."""
    differences = [sums[0] - other for other in sums]  # raises if the queries differ
    clusters = next((None for one in differences if one.clusters is None), sums[0].clusters)
    return replace(sums[0], terms=np.mean([one.terms for one in sums], axis=0), clusters=clusters)


def query_sum(table: pa.Table, metric: str) -> PerQueryContributions:
    """Return a metric of a per-query table as a sum over queries.

    1. Select the rows of the metric's setting, and of its language, pair or resource level.
    2. Count the queries of each pair of languages.
    3. Weigh pairs equally, and queries equally within a pair.

    Args:
        table: of one run and benchmark, as `per_query.parquet` holds it.
        metric: a metric's name without its benchmark, such as `mono/map`, `multi/rank_distance`, `cross/map/ar-en` or
            `gap/map`. Its last part is a query language, a pair of languages, or a resource level:
            `cross/map/low-resource` averages the pairs with such a language on either side.

    Raises:
        UserError: the table lacks a column, no row counts, or the metric is no such sum: that of the worst tenth of
            languages is not, because which languages are worst differs between runs.
    """
    setting, _, rest = metric.partition("/")
    name, _, part = rest.partition("/")
    if part == WORST_TENTH:
        raise UserError(
            f"{metric} has no paired test, because which languages are worst differs between runs; choose the metric "
            f"of a language, such as {setting}/{name}/en"
        )
    column = find_metric(f"/{setting}/{name}").column
    needed = ["query_id", "language", "passage_language", "group", "setting", column]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise UserError(f"a per_query.parquet has no column {missing[0]!r}; evaluate that model again")
    settings = ("mono", "cross") if setting == GAP else (setting,)
    has_clusters = "cluster" in table.column_names  # not in tables of earlier versions
    found: dict[Key, tuple[str, float, str]] = {}
    counts: dict[str, dict[LanguagePair, int]] = {one: {} for one in settings}
    columns = [*needed, "cluster" if has_clusters else "group"]
    selected = _select_rows(table, settings, part, column).select(columns)
    for query, language, passage_language, group, row_setting, value, cluster in zip(
        *(values.to_pylist() for values in selected.columns), strict=True
    ):
        pair = (language, passage_language or "")
        found[query, *pair] = (group, value, cluster)
        counts[row_setting][pair] = counts[row_setting].get(pair, 0) + 1
    weights = _gap_weights(counts) if setting == GAP else _weights(counts[setting])
    keys = sorted(key for key in found if key[1:] in weights)
    if not keys:
        raise UserError(f"nothing in a per_query.parquet counts for {metric}; choose another metric")
    return PerQueryContributions(
        tuple(keys),
        tuple(found[key][0] for key in keys),
        np.array([found[key][1] * weights[key[1], key[2]] for key in keys]),
        tuple(found[key][2] for key in keys) if has_clusters else None,
    )


def _select_rows(table: pa.Table, settings: Sequence[str], part: str, column: str) -> pa.Table:
    """Return the rows of settings that have a value in a column; `part` is that of `_is_in`, or "" for all."""
    names = ("setting", "language", "passage_language")
    texts = (table.column(name).cast(pa.string()) for name in names)
    kinds = pc.binary_join_element_wise(*texts, "\t", null_handling="replace")
    wanted = []
    for kind in kinds.unique().to_pylist():
        setting, *pair = kind.split("\t")
        if setting in settings and (not part or _is_in(part, setting, tuple(pair))):
            wanted.append(kind)
    is_wanted = pc.is_in(kinds, pa.array(wanted, pa.string()))
    return table.filter(pc.and_(is_wanted, table.column(column).is_valid()))


def _is_in(part: str, setting: str, pair: LanguagePair) -> bool:
    """Return whether a pair belongs to a query language, pair of languages or resource level."""
    if part in LEVELS:
        languages = pair if setting == "cross" else pair[:1]
        return any(f"{resource_level(language)}-resource" == part for language in languages)
    return part in (pair[0], "-".join(pair))


def _weights(counts: dict[LanguagePair, int]) -> dict[LanguagePair, float]:
    """Return the weight of a query of each pair: pairs weigh the same, and queries within a pair."""
    return {pair: 1 / (len(counts) * count) for pair, count in counts.items()}


def _gap_weights(counts: dict[str, dict[LanguagePair, int]]) -> dict[LanguagePair, float]:
    """Return the weights of mono minus the mean of cross for each query language; languages weigh the same."""
    others: dict[str, list[LanguagePair]] = {}
    for pair in counts["cross"]:
        others.setdefault(pair[0], []).append(pair)
    both = [language for language in others if (language, language) in counts["mono"]]
    weights: dict[LanguagePair, float] = {}
    for language in both:
        weights[language, language] = 1 / (len(both) * counts["mono"][language, language])
        for pair in others[language]:
            weights[pair] = -1 / (len(both) * len(others[language]) * counts["cross"][pair])
    return weights
