"""FAISS finds what sorting every score finds."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_ray.retrieval.faiss_index import top_k


def _by_sorting(queries: np.ndarray, passages: np.ndarray, k: int) -> list[list[int]]:
    return [
        sorted(range(len(passages)), key=lambda column: (-scores[column], -column))[:k]
        for scores in queries @ passages.T
    ]


@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_top_k_equals_exact_ranking_with_ties(k: int):
    rng = np.random.default_rng(k)
    queries = rng.integers(-1, 2, (30, 3)).astype(np.float32)  # scores of -3 to 3: most are equal
    passages = rng.integers(-1, 2, (60, 3)).astype(np.float32)
    scores, columns = top_k(queries, passages, k)
    assert columns.tolist() == _by_sorting(queries, passages, k)
    assert (scores == np.take_along_axis(queries @ passages.T, columns, axis=1)).all()


def test_a_tie_of_unequal_passages_may_reach_far_beyond_k():
    angles = np.arange(300, dtype=np.float32)
    passages = np.stack([np.ones(300, np.float32), angles], axis=1)  # all score 1 for the question (1, 0)
    _, columns = top_k(np.array([[1, 0]], np.float32), passages, 3)
    assert columns.tolist() == [[299, 298, 297]]


def test_top_k_equals_exact_ranking_of_random_unit_vectors():
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, 48), dtype=np.float32) for n in (40, 700))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    scores, columns = top_k(queries, passages, 50)
    exact = queries.astype(np.float64) @ passages.astype(np.float64).T
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores == np.take_along_axis(exact, columns, axis=1).astype(np.float32)).all()
    assert (scores == -np.sort(-exact, axis=1)[:, :50].astype(np.float32)).all()


def test_more_than_there_are_gives_all():
    vectors = np.eye(3, dtype=np.float32)
    scores, columns = top_k(vectors, vectors, 10)
    assert scores.shape == columns.shape == (3, 3)
    assert columns.tolist() == [[0, 2, 1], [1, 2, 0], [2, 1, 0]]
