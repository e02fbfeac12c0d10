"""Ranks and lists are exact, ties included, and equal for any number of shards."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.errors import UserError
from hbt_ray.retrieval import exact_scores
from hbt_ray.retrieval.exact_scores import NOT_RETRIEVED
from hbt_ray.retrieval.exact_search import TopK
from hbt_ray.retrieval.passage_index import LocalShards, PassageIndex, ShardsOnDemand, cut_at, shard_bounds
from hbt_ray.retrieval.passage_shard import PassageIndexShard, Span


def sharded(vectors: np.ndarray, shards: int, kind: Any = "flat", depth: int | None = None) -> PassageIndex:
    parts = [PassageIndexShard(vectors[start:stop], start, kind) for start, stop in shard_bounds(len(vectors), shards)]
    return PassageIndex.of(*parts, depth=depth)


def whole_numbers(seed: int, *shape: int) -> np.ndarray:
    """Vectors whose scores are exact and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def by_sorting(queries: np.ndarray, vectors: np.ndarray, pool: np.ndarray) -> list[list[int]]:
    """Columns of a pool in the order of their scores in float64, which are rounded to float32."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    return [sorted(pool.tolist(), key=lambda column: (-line[column], -column)) for line in scores]


def ranks_by_sorting(
    queries: np.ndarray, vectors: np.ndarray, relevant: np.ndarray, pool: np.ndarray
) -> list[list[int]]:
    ordered = by_sorting(queries, vectors, pool)
    return [
        [line.index(column) + 1 if column in line else 0 for column in own]
        for line, own in zip(ordered, relevant.tolist(), strict=True)
    ]


@pytest.mark.parametrize("at_once", [40, 120, 2**24])
@pytest.mark.parametrize("shards", [1, 3])
def test_ranks_in_every_span_equal_sorting(monkeypatch, at_once: int, shards: int):
    monkeypatch.setattr("hbt_ray.retrieval.passage_shard.MAX_SCORES_IN_MEMORY", at_once)
    vectors, queries = whole_numbers(4, 40, 4), whole_numbers(3, 17, 4)
    rng = np.random.default_rng(3)
    relevant = np.stack([rng.permutation(41)[:5] - 1 for _ in range(17)])
    spans: list[Span] = [slice(0, 12), slice(12, 40), np.array([1, 5, 6, 20, 39]), slice(None)]
    ranks = sharded(vectors, shards).ranks(queries, relevant, spans)
    for span, found in zip(spans, ranks, strict=True):
        assert found.tolist() == ranks_by_sorting(queries, vectors, relevant, np.arange(40)[span])


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(2, 60), st.sampled_from([1e-7, 1e-6, 1e-3, 1]))
def test_ranks_and_lists_are_exact_for_near_scores_in_any_shards(seed: int, shards: int, passages: int, spread: float):
    # Vectors that differ by no more than float32 resolves: matrix products order them by chance.
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal(48) + spread * rng.standard_normal((passages, 48))).astype(np.float32)
    vectors[rng.integers(0, passages, 3)] = vectors[0]
    queries = rng.standard_normal((9, 48)).astype(np.float32)
    relevant = rng.integers(-1, passages, (9, 4))
    middle = passages // 2
    spans = [slice(0, middle), slice(middle, passages), slice(None)]
    pool = sharded(vectors, shards)
    for span, found in zip(spans, pool.ranks(queries, relevant, spans), strict=True):
        assert found.tolist() == ranks_by_sorting(queries, vectors, relevant, np.arange(passages)[span])
    scores, columns = pool.top_k(queries, 5)
    assert columns.tolist() == [line[:5] for line in by_sorting(queries, vectors, np.arange(passages))]
    assert (scores == sharded(vectors, 1).top_k(queries, 5)[0]).all()
    chosen = rng.integers(0, passages, 6).tolist()
    assert (pool.vectors_of(np.array(chosen)) == vectors[chosen]).all()


def test_equal_passages_tie_exactly():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((300, 100), dtype=np.float32)
    passages = np.tile(rng.standard_normal((1, 100), dtype=np.float32), (1_001, 1))
    relevant = np.tile(np.array([0, 500, 1_000]), (300, 1))
    assert (PassageIndex.of(PassageIndexShard(passages)).ranks(queries, relevant)[0] == [1_001, 501, 1]).all()


@pytest.mark.parametrize("noise", [0, 1e-8])
def test_few_pairs_of_a_tie_of_all_passages_are_summed_one_by_one(monkeypatch, noise: float):
    summed = []  # numbers of pairs

    def counted(queries, passages, rows, columns):
        summed.append(len(columns))
        return exact_scores.exact_scores(queries, passages, rows, columns)

    for module in ("exact_search", "passage_shard"):
        monkeypatch.setattr(f"hbt_ray.retrieval.{module}.exact_scores", counted)
    rng = np.random.default_rng(0)
    queries, vector = rng.standard_normal((60, 32), dtype=np.float32), rng.standard_normal(32)
    passages = (vector + noise * rng.standard_normal((2_000, 32))).astype(np.float32)
    relevant = rng.integers(0, 2_000, (60, 4))
    index = PassageIndex.of(PassageIndexShard(passages))
    assert index.ranks(queries, relevant)[0].tolist() == ranks_by_sorting(queries, passages, relevant, np.arange(2_000))
    assert index.top_k(queries, 10)[1].tolist() == [
        line[:10] for line in by_sorting(queries, passages, np.arange(2_000))
    ]
    assert sum(summed) <= 60 * (4 + 18)  # the relevant passages, and the first candidates of a list


def test_exact_scores_of_all_pairs_are_the_sums_bit_for_bit():
    rng = np.random.default_rng(1)
    queries, passages = (rng.standard_normal((n, 384)).astype(np.float32) for n in (20, 5_000))
    scores = exact_scores.exact_scores_of_all(queries, passages)
    rows, columns = (places.ravel() for places in np.indices(scores.shape))
    assert (scores.ravel() == exact_scores.exact_scores(queries, passages, rows, columns)).all()
    keys = exact_scores.rank_keys(scores, np.arange(5_000))
    assert (np.argsort(keys[0]) == np.lexsort((np.arange(5_000), scores[0]))).all()
    back, positions = exact_scores.scores_of_keys(keys)
    assert (back == scores).all()
    assert (positions == np.arange(5_000)).all()


def test_shards_on_demand_find_the_same_and_one_is_open_at_a_time():
    vectors, queries = whole_numbers(0, 40, 4), whole_numbers(1, 5, 4)
    bounds = shard_bounds(40, 3)
    opened: list[weakref.ref[PassageIndexShard]] = []

    def open_shard(number: int) -> PassageIndexShard:
        assert all(shard() is None for shard in opened)
        shard = PassageIndexShard(vectors[slice(*bounds[number])], bounds[number][0])
        opened.append(weakref.ref(shard))
        return shard

    index, expected = PassageIndex(LocalShards(ShardsOnDemand(open_shard, 3))), sharded(vectors, 1)
    relevant = np.arange(10).reshape(5, 2)
    assert (index.ranks(queries, relevant) == expected.ranks(queries, relevant)).all()
    assert (index.top_k(queries, 7)[1] == expected.top_k(queries, 7)[1]).all()
    assert (index.vectors_of(relevant[:, 0]) == vectors[relevant[:, 0]]).all()
    assert len(opened) == 3 * 5


def test_vectors_that_are_not_numbers_are_refused():
    vectors = np.eye(2, dtype=np.float32)
    broken = np.where(vectors > 0, np.nan, vectors)
    with pytest.raises(UserError, match="passages hold NaN"):
        PassageIndexShard(broken)
    with pytest.raises(UserError, match="questions hold NaN"):
        PassageIndex.of(PassageIndexShard(vectors)).top_k(broken, 1)
    with pytest.raises(UserError, match="same model"):
        PassageIndex.of(PassageIndexShard(np.ones((2, 3), np.float32))).ranks(vectors, np.array([[0], [1]]))


def test_shards_are_neighbours_of_nearly_equal_size():
    assert shard_bounds(3, 5) == [(0, 1), (1, 2), (2, 3)]
    bounds = shard_bounds(1003, 4)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1003
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    assert {stop - start for start, stop in bounds} == {250, 251}


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_index_searches_languages_separately(kind: str):
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((100, 32))
    centres = np.concatenate([topics, topics + 0.5 * rng.standard_normal(32)])  # the same topics in two languages
    vectors = (centres[np.arange(24_000) // 120] + 0.3 * rng.standard_normal((24_000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    relevant = np.arange(0, 24_000, 480)[:, None]
    queries = vectors[relevant[:, 0]] + 0.02 * rng.standard_normal((50, 32)).astype(np.float32)
    shards = [PassageIndexShard(vectors[start:stop], start, kind) for start, stop in ((0, 12_000), (12_000, 24_000))]
    pool = PassageIndex.of(*shards, depth=100)
    least = {"hnsw": 0.9, "ivfpq": 0.4}[kind]
    spans = [slice(0, 12_000), slice(12_000, 24_000), slice(None)]
    assert [pool.index_recall(queries, span) > least for span in (None, (0, 12_000), (12_000, 24_000))] == [True] * 3
    ranks = pool.ranks(queries, relevant, spans)
    assert (ranks[0][25:] == 0).all()
    assert (ranks[1][:25] == 0).all()
    assert (ranks[0][:25] != 0).all()
    assert (ranks[2] != 0).all()
    assert (ranks[2] > 0).mean() > 0.9
    assert set(np.unique(ranks[2][ranks[2] < 1]).tolist()) <= {NOT_RETRIEVED}


class _MissesTheFirst(LocalShards):
    """Finds the best passage only in a search for three."""

    def top_k(self, queries: np.ndarray, k: int, span: tuple[int, int] | None) -> list[TopK]:
        [(scores, indices)] = super().top_k(queries, 3, span)
        first = 0 if k >= 3 else 1
        return [(scores[:, first : first + k], indices[:, first : first + k])]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_ranks_lists_and_recall_of_an_approximate_index_agree(k: int):
    vectors, queries = np.array([[3], [2], [1]], np.float32), np.ones((1, 1), np.float32)
    pool = PassageIndex(_MissesTheFirst([PassageIndexShard(vectors)]), depth=3)
    assert pool.ranks(queries, np.array([[0, 1, 2]])).tolist() == [[[1, 2, 3]]]
    assert pool.top_k(queries, k)[1].tolist() == [[0, 1, 2][:k]]
    assert pool.index_recall(queries, k=k) == 1


def test_a_small_shard_is_searched_exactly_whatever_its_kind():
    vectors = whole_numbers(0, 300, 4)
    near, exact = (PassageIndex.of(PassageIndexShard(vectors, index_type=kind)) for kind in ("hnsw", "flat"))
    assert near.top_k(vectors[:20], 10)[1].tolist() == exact.top_k(vectors[:20], 10)[1].tolist()


def test_a_span_is_searched_in_the_shards_that_it_holds():
    vectors = whole_numbers(0, 300, 4)
    pool = PassageIndex.of(*(PassageIndexShard(vectors[a:b], a) for a, b in cut_at(0, 300, [100, 150])))
    _, columns = pool.top_k(vectors[:20], 10, (100, 150))
    assert ((columns >= 100) & (columns < 150)).all()
    with pytest.raises(ValueError, match="cut shards at spans"):
        pool.top_k(vectors[:20], 10, (120, 150))
