"""Whether one run is better than another by more than chance: paired tests over queries.

A metric is a mean of means: over queries, then over languages or pairs of them. So it is a weighted sum over
queries, and so is the difference of two runs. Translations of one question, and one question in several pools, are
not independent; they are one *group* here, and chance acts on groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from hbt_ray.errors import UserError

RESAMPLES = 9999
CONFIDENCE = 0.95
_BATCH = 512  # resamples held in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a metric between two runs, the second less the first."""

    mean: float
    low: float  # of the 95% confidence interval
    high: float
    p_value: float  # two-sided, that chance alone gives a difference as large
    groups: int


def compare_queries(
    one: Sequence[pa.Table], other: Sequence[pa.Table], setting: str, column: str, *, seed: int = 0
) -> Difference:
    """Fisher's randomisation test and a bootstrap interval for the difference of a metric.

    The test turns the sign of each group's difference at random (Smucker, Allan and Carterette 2007); with few groups,
    all ways to do so are counted. The interval is the percentile bootstrap over groups (Efron and Tibshirani 1993,
    chapter 13).

    Args:
        one: per-query tables of a run, or of its repetitions with other seeds; each query counts its mean over them.
        other: likewise, of the run that it is compared with.
        setting: "mono", "cross" or "multi".
        column: of the tables, such as "ap".

    Raises:
        UserError: the tables are not of the same queries.
    """
    groups, weights, first = _values(one, setting, column)
    same_groups, _, second = _values(other, setting, column)
    if groups != same_groups:
        raise UserError("these runs were not measured on the same queries; evaluate them on the same benchmark")
    names = sorted(set(groups))
    number = {name: place for place, name in enumerate(names)}
    differences = np.bincount([number[group] for group in groups], weights * (second - first), len(names))
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0, len(names))
    generator = np.random.default_rng(seed)
    tested = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=RESAMPLES, batch=_BATCH, rng=generator
    )
    if len(names) < 2:
        low = high = float(differences.sum())
    else:
        drawn = stats.bootstrap(
            (differences,),
            np.sum,
            n_resamples=RESAMPLES,
            batch=_BATCH,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=generator,
        )
        low, high = drawn.confidence_interval
    return Difference(float(differences.sum()), float(low), float(high), float(tested.pvalue), len(names))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are, so that the chance of any false alarm keeps its bound. Holm 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected = [0.0] * len(order)
    largest = 0.0
    for place, number in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[number]))
        corrected[number] = largest
    return corrected


def _values(tables: Sequence[pa.Table], setting: str, column: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Of each query in each pool: its group, its weight in the metric, and its value, a mean over the tables."""
    found: list[dict[tuple[str, str, str], tuple[str, float]]] = []
    columns = ["query_id", "language", "passage_language", "group", "setting", column]
    for table in tables:
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            raise UserError(f"a per_query.parquet has no column {missing[0]!r}; evaluate that model anew")
        rows = table.select(columns).to_pydict()
        found.append(
            {
                (query, language, answered or ""): (group, value)
                for query, language, answered, group, own, value in zip(*rows.values(), strict=True)
                if own == setting and value is not None
            }
        )
    keys = sorted(found[0])
    if any(other.keys() != found[0].keys() for other in found) or not keys:
        raise UserError("these runs were not measured on the same queries; evaluate them on the same benchmark")
    cells: dict[tuple[str, str], int] = {}
    for _, language, answered in keys:
        cells[language, answered] = cells.get((language, answered), 0) + 1
    weights = np.array([1 / (len(cells) * cells[language, answered]) for _, language, answered in keys])
    values = np.mean([[own[key][1] for key in keys] for own in found], axis=0)
    return [found[0][key][0] for key in keys], weights, values
