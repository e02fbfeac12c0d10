"""The gap between retrieval within a language and across two: mono minus cross, and its interval.

Legend: G clusters of questions (those that are not independent, such as translations of one question), P pairs of query
and passage language, N queries of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

GAP_METRICS = ("map", "map_matched")  # of which the gap is reported
_CONFIDENCE = 0.95
_RESAMPLES = 2000
_BATCH = 256  # resamples held in memory at once

Pair = tuple[str, str]  # query language, passage language


@dataclass(frozen=True, slots=True)
class LanguageGap:
    """A gap in a metric that is a mean over queries."""

    by_language: dict[str, float]  # query language -> its mono minus the mean of its cross values
    low: float  # of the 95% confidence interval of the mean over languages; NaN for one cluster
    high: float

    @property
    def mean(self) -> float:
        """The mean over query languages."""
        return float(np.mean(list(self.by_language.values())))


def language_gap(values: Mapping[Pair, np.ndarray], clusters: Mapping[Pair, np.ndarray]) -> LanguageGap | None:
    """Compute mono minus cross: of each query language its mono value minus the mean of its cross values.

    The interval is the percentile bootstrap over clusters of questions (Efron and Tibshirani 1993, chapter 13): the
    mean of each pair is computed again from the queries of the clusters drawn.

    Args:
        values: of each pair of languages, (N,) of its queries.
        clusters: of each pair, (N,) the numbers of their clusters of questions, from 0.

    Returns:
        None where no query language has both.
    """
    others: dict[str, list[Pair]] = {}
    for pair in values:
        if pair[0] != pair[1] and (pair[0], pair[0]) in values:
            others.setdefault(pair[0], []).append(pair)
    if not others:
        return None
    pairs = [pair for language in others for pair in [(language, language), *others[language]]]
    weights = np.zeros((len(pairs), len(others)))  # of each pair's mean in each language's gap
    for column, language in enumerate(others):
        for row, pair in enumerate(pairs):
            if pair[0] == language:
                weights[row, column] = 1.0 if pair[1] == language else -1.0 / len(others[language])
    num_clusters = 1 + max(int(clusters[pair].max()) for pair in pairs)
    sums = np.stack([np.bincount(clusters[pair], values[pair], num_clusters) for pair in pairs], axis=1)  # (G, P)
    counts = np.stack([np.bincount(clusters[pair], minlength=num_clusters) for pair in pairs], axis=1)
    gaps = (sums.sum(axis=0) / counts.sum(axis=0)) @ weights
    low, high = _interval(sums, counts, weights.mean(axis=1))
    return LanguageGap(dict(zip(others, gaps.tolist(), strict=True)), low, high)


def _interval(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return the interval of a weighted sum of means: (G, P) sums, (G, P) numbers of queries, (P,) weights.

    A resample without any query of a pair has no value and is left out. One cluster shows nothing of others.
    """
    if np.count_nonzero(counts.any(axis=1)) < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(0)
    num_clusters = len(sums)
    resampled = []
    for first in range(0, _RESAMPLES, _BATCH):
        drawn = generator.integers(num_clusters, size=(min(_BATCH, _RESAMPLES - first), num_clusters))
        offsets = num_clusters * np.arange(len(drawn))[:, None]
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        with np.errstate(invalid="ignore"):
            resampled.append(((times @ sums) / (times @ counts)) @ weights)
    low, high = np.nanquantile(np.concatenate(resampled), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)
