"""A warning where a model maps different texts to one vector: its metrics are those of the order of ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hbt_ray.data.types import Benchmark
from hbt_ray.retrieval.passage_index import PassageIndex

_COMPARED_TEXTS = 10_000  # evenly spaced
_SAMPLED_TEXTS = 100  # different ones of these, evenly spaced
_TOLERANCE = 1e-5  # of the longest vector


def constant_vector_warnings(benchmark: Benchmark, query_vectors: np.ndarray, index: PassageIndex) -> tuple[str, ...]:
    """Return a sentence for queries, and one for passages, if all their vectors are equal.

    Args:
        benchmark: the texts.
        query_vectors: (Q, D).
        index: has the passages' vectors.
    """
    effect = "these numbers only show how ties are ordered"
    found = [
        constant_vector_warning(
            "queries", [query.text for query in benchmark.queries], lambda rows: query_vectors[rows], effect
        ),
        constant_vector_warning("passages", benchmark.columns.texts, index.vectors_of, effect),
    ]
    return tuple(warning for warning in found if warning is not None)


def constant_vector_warning(
    side: str, texts: Sequence[str], vectors_of: Callable[[np.ndarray], np.ndarray], effect: str
) -> str | None:
    """Return a sentence if the vectors of different texts are all equal, else None.

    Args:
        side: what the texts are, "queries" or "passages".
        texts: (N,).
        vectors_of: row indices (S,) -> vectors (S, D).
        effect: what it means for the result.
    """
    rows = np.unique(np.linspace(0, max(len(texts) - 1, 0), _COMPARED_TEXTS).astype(int)).tolist() if texts else []
    different = np.array(list({texts[row]: row for row in rows}.values()))
    if len(different) < 2:
        return None
    sampled = different[np.unique(np.linspace(0, len(different) - 1, _SAMPLED_TEXTS).astype(int))]
    vectors = np.asarray(vectors_of(np.sort(sampled)), np.float32)
    longest = float(np.abs(vectors).max())
    if longest and float(np.abs(vectors - vectors[0]).max()) > _TOLERANCE * longest:
        return None
    equal = f"the vector of all {side} is the same" if longest else f"the vector of all {side} is 0"
    return f"{equal}: the model does not distinguish texts, and {effect}"
