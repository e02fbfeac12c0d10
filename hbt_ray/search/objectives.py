"""Several things wanted at once: a score by weights, the Pareto front and its knee.

Legend: N configurations, M objectives. Values are turned so that more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hbt_ray.evaluation.metrics import Metric, find_metric


def find_objective_metric(objective: str) -> Metric:
    """The measure of an objective such as `multi/map`. Raises UserError when it names none."""
    return find_metric(f"any/{objective}")


def score(metrics: Mapping[str, float], weights: Mapping[str, float], passages: int) -> float:
    """One number from several, for a choice by stated weights: their weighted mean.

    A measure in ranks counts as 1 - value / (passages - 1): 1 where answers in all languages stand side by side, 0
    where one is first and another last.

    Args:
        metrics: by objective, such as `multi/map`; a missing one counts 0.
        passages: in the pool of all languages.
    """
    total = sum(weights.values())
    return sum(weight * as_share(name, metrics.get(name), passages) for name, weight in weights.items()) / total


def as_share(objective: str, value: float | None, passages: int) -> float:
    """An objective between 0 and 1, of which more is better; 0 where it was not measured.

    >>> as_share("multi/rank_distance", 25, 101), as_share("multi/map", 0.5, 101)
    (0.75, 0.5)
    """
    if value is None or not np.isfinite(value):
        return 0.0
    if find_objective_metric(objective).unit == "ranks":
        return 1 - value / max(passages - 1, 1)
    return value if find_objective_metric(objective).higher_is_better else 1 - value


def pareto_front(values: np.ndarray) -> np.ndarray:
    """(N, M) -> (N,) bool, whether no other row is as good in every objective and better in one.

    >>> pareto_front(np.array([[1, 0], [0, 1], [0.5, 0.5], [0.4, 0.5]])).tolist()
    [True, True, True, False]
    """
    as_good = np.all(values[None] >= values[:, None], axis=2)
    better = np.any(values[None] > values[:, None], axis=2)
    front: np.ndarray = ~(as_good & better).any(axis=1)
    return front


def knee(values: np.ndarray) -> int:
    """The row of the front that is nearest to having the best of everything: a compromise that needs no weights.

    Objectives are scaled so that the front goes from 0 to 1 in each, and the distance to (1, ..., 1) is Euclidean:
    compromise programming, Zeleny 1973. Of equal ones the first.

    >>> knee(np.array([[1, 0], [0.8, 0.7], [0, 1]]))
    1

    Args:
        values: (N, M) of all configurations; those behind the front are passed over.
    """
    front = np.flatnonzero(pareto_front(values))
    own = values[front]
    span = own.max(axis=0) - own.min(axis=0)
    scaled = np.divide(own - own.min(axis=0), span, where=span > 0, out=np.ones(own.shape))
    return int(front[np.linalg.norm(1 - scaled, axis=1).argmin()])


def matrix(rows: Sequence[Mapping[str, float]], objectives: Sequence[str], passages: int) -> np.ndarray:
    """(N, M) of configurations' metrics, as shares."""
    return np.array([[as_share(name, row.get(name), passages) for name in objectives] for row in rows])
