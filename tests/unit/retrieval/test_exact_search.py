"""The first k passages are those of a plain float64 implementation, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.retrieval import exact_search
from hbt_ray.retrieval.exact_scores import float32_error_bound, longest_vector
from hbt_ray.retrieval.exact_search import TopK, top_k


def by_sorting(queries: np.ndarray, passages: np.ndarray, k: int) -> TopK:
    """Sum in float64, round to float32, sort: of equal scores the greater index first."""
    scores = (queries[:, None].astype(np.float64) * passages).sum(axis=2).astype(np.float32) + np.float32(0)
    order = np.array([np.lexsort((-np.arange(len(passages)), -row))[:k] for row in scores])
    return np.take_along_axis(scores, order, axis=1), order


def check(queries: np.ndarray, passages: np.ndarray, k: int) -> None:
    """Compare with sorting, byte for byte."""
    for found, expected in zip(top_k(queries, passages, k), by_sorting(queries, passages, k), strict=True):
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


@pytest.fixture
def many_tiles(monkeypatch):
    """Make tiles so small that thresholds are raised many times within a few hundred passages."""
    monkeypatch.setattr(exact_search, "_SCORES_PER_TILE", 400)
    monkeypatch.setattr(exact_search, "_SPARE", 3)


@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_top_k_equals_exact_ranking_with_ties(k: int):
    rng = np.random.default_rng(k)
    queries = rng.integers(-1, 2, (30, 3)).astype(np.float32)  # scores of -3 to 3: most are equal
    check(queries, rng.integers(-1, 2, (60, 3)).astype(np.float32), k)


def test_a_tie_of_unequal_passages_may_reach_far_beyond_k(many_tiles):
    angles = np.arange(300, dtype=np.float32)
    passages = np.stack([np.ones(300, np.float32), angles], axis=1)  # all score 1 for the question (1, 0)
    _, columns = top_k(np.array([[1, 0]], np.float32), passages, 3)
    assert columns.tolist() == [[299, 298, 297]]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 80),
    st.integers(1, 20),
    st.sampled_from([0, 1e-8, 1e-7, 1e-3, 1]),
    st.sampled_from([1e-30, 1, 1e18]),
)
def test_lists_are_exact_for_any_vectors(seed: int, width: int, passages: int, k: int, spread: float, scale: float):
    # With little spread, float32 products order the passages by chance; products of lengths of 1e36 overflow.
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal(width) + spread * rng.standard_normal((passages, width))
    vectors = (scale * vectors).astype(np.float32)
    vectors[rng.integers(0, passages, passages // 3)] = vectors[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "_SCORES_PER_TILE", 40)
        patch.setattr(exact_search, "_SPARE", 1)
        check((scale * rng.standard_normal((9, width))).astype(np.float32), vectors, k)


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_near_ties_are_exact_in_any_order_of_the_passages(many_tiles, order: str):
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, 48)) for n in (40, 900))
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    for row in range(40):  # ten passages with scores 1e-7 apart, and two that are equal
        passages[20 * row : 20 * row + 10] = passages[20 * row] + 1e-7 * np.arange(10)[:, None] * queries[row]
    passages[10:800:20] = passages[9:800:20]
    sort = {"random": rng.permutation(900), "ascending": np.argsort(passages @ queries[0])}
    sort["descending"] = sort["ascending"][::-1]
    check(queries.astype(np.float32), passages[sort[order]].astype(np.float32), 20)


def test_all_passages_are_scored_for_queries_with_an_eighth_within_the_bound(many_tiles, monkeypatch):
    scored = []
    of_all = exact_search._top_k_of_all
    monkeypatch.setattr(
        exact_search, "_top_k_of_all", lambda rows, *others: scored.append(len(rows)) or of_all(rows, *others)
    )
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((4_000, 16)).astype(np.float32)
    passages[:300] = passages[0]  # the first of one query, the last of another
    queries = np.stack([passages[0], -passages[0], rng.standard_normal(16)]).astype(np.float32)
    check(queries, passages, 10)
    assert scored == []
    passages[300:700] = passages[0]
    check(queries, passages[::-1], 10)
    assert scored == [1]


def test_more_than_there_are_gives_all():
    vectors = np.eye(3, dtype=np.float32)
    scores, columns = top_k(vectors, vectors, 10)
    assert scores.shape == columns.shape == (3, 3)
    assert columns.tolist() == [[0, 2, 1], [1, 2, 0], [2, 1, 0]]
    assert [part.shape for part in top_k(vectors[:0], vectors, 2)] == [(0, 2), (0, 2)]
    assert [part.shape for part in top_k(vectors, vectors[:0], 2)] == [(3, 0), (3, 0)]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 64, 385]), st.sampled_from([1e-38, 1e-22, 1e-10, 1, 1e15]))
def test_errors_of_products_are_within_the_bound(seed: int, width: int, scale: float):
    rng = np.random.default_rng(seed)
    queries, passages = ((scale * rng.standard_normal((n, width))).astype(np.float32) for n in (5, 30))
    longest = longest_vector(passages)
    assert (np.linalg.norm(passages.astype(np.float64), axis=1) <= longest).all()
    scores = (queries[:, None].astype(np.float64) * passages).sum(axis=2).astype(np.float32)
    errors = np.abs((queries @ passages.T).astype(np.float64) - scores)
    assert (errors.max(axis=1) <= float32_error_bound(queries, longest)).all()
    assert (float32_error_bound(queries[:, :1] * 0 + 1, 2.0**126) == np.inf).all()
