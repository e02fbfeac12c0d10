"""Several objectives at once: the score of a trial while it runs, the Pareto front, and the choice on it.

Legend: N candidates, M objectives. Values are scaled so that more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hbt_ray.evaluation.metrics import Metric, find_metric


def find_objective_metric(objective: str) -> Metric:
    """Return the metric of an objective such as `multi/map`. Raises UserError if there is none."""
    return find_metric(f"any/{objective}")


def score(metrics: Mapping[str, float], weights: Mapping[str, float], passages: int) -> float:
    """Return the weighted mean of the scaled objectives, by which searchers and schedulers compare trials that run.

    It needs no other trial. An objective that varies more decides more, so the choice is by `compromise_scores`.

    Args:
        metrics: by objective, such as `multi/map`; a missing one counts 0.
        weights: by objective.
        passages: in the pool of all languages; see `scaled_objective`.
    """
    total = sum(weights.values())
    return sum(weight * scaled_objective(name, metrics.get(name), passages) for name, weight in weights.items()) / total


def scaled_objective(objective: str, value: float | None, passages: int) -> float:
    """Return an objective on a scale from 0 to 1, of which more is better; 0 if it is missing.

    A metric in ranks becomes 1 - value / (passages - 1): 1 if the answers in all languages are ranked next to each
    other, 0 if one is first and another last. Another metric of which less is better becomes 1 - value.

    >>> scaled_objective("multi/rank_distance", 25, 101), scaled_objective("multi/map", 0.5, 101)
    (0.75, 0.5)
    """
    if value is None or not np.isfinite(value):
        return 0.0
    if find_objective_metric(objective).unit == "ranks":
        return 1 - value / max(passages - 1, 1)
    return value if find_objective_metric(objective).higher_is_better else 1 - value


def scaled_objectives(rows: Sequence[Mapping[str, float]], objectives: Sequence[str], passages: int) -> np.ndarray:
    """Return the scaled objectives (N, M) of the metrics of N candidates."""
    return np.array([[scaled_objective(name, row.get(name), passages) for name in objectives] for row in rows])


def pareto_front(values: np.ndarray) -> np.ndarray:
    """Mark the rows that no other row dominates: is as good in every objective and better in one. (N, M) -> (N,) bool.

    >>> pareto_front(np.array([[1, 0], [0, 1], [0.5, 0.5], [0.4, 0.5]])).tolist()
    [True, True, True, False]
    """
    as_good = np.all(values[None] >= values[:, None], axis=2)
    better = np.any(values[None] > values[:, None], axis=2)
    front: np.ndarray = ~(as_good & better).any(axis=1)
    return front


def compromise_scores(values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return 1 less the distance to the best of every objective, (N,): compromise programming, Zeleny 1973.

    Each objective is scaled so that the Pareto front spans 0 to 1, so none decides by its unit or its range; where the
    front has one value, so that all candidates do. The distance to (1, ..., 1) is Euclidean, with the mean of the
    squares weighted.

    >>> compromise_scores(np.array([[1, 0], [0.5, 0.5], [0, 1]]), [1, 3]).round(3).tolist()
    [0.134, 0.5, 0.5]
    >>> compromise_scores(np.array([[0.9, 0.9], [0.5, 0.5], [0.1, 0.1]]), [1, 1]).round(3).tolist()
    [1.0, 0.5, 0.0]

    Args:
        values: (N, M).
        weights: M, at least one above 0.
    """
    on_front = values[pareto_front(values)]
    span = np.where(np.ptp(on_front, axis=0) > 0, np.ptp(on_front, axis=0), np.ptp(values, axis=0))
    below_best = np.divide(on_front.max(axis=0) - values, span, where=span > 0, out=np.zeros(values.shape))
    scores: np.ndarray = 1 - np.sqrt(np.average(below_best**2, axis=1, weights=weights))
    return scores


def knee(values: np.ndarray) -> int:
    """Return the row of the front with the best of `compromise_scores` with equal weights. Of equal rows, the first.

    >>> knee(np.array([[1, 0], [0.8, 0.7], [0, 1]]))
    1

    Args:
        values: (N, M) of all candidates; those that are not on the front are ignored.
    """
    scores = compromise_scores(values, [1.0] * values.shape[1])
    return int(np.where(pareto_front(values), scores, -np.inf).argmax())
