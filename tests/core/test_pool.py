"""Shards answer as one pool does."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray import metrics
from hbt_ray.errors import StoreError
from hbt_ray.index import SearchIndex
from hbt_ray.pool import ArrayPool, Shard, ShardedPool, shard_bounds
from hbt_ray.vectors import VectorFiles, commit, vectors_fingerprint, write_part


def sharded(vectors: np.ndarray, shards: int, kind: Any = "flat", depth: int | None = None) -> ShardedPool:
    parts = [Shard(vectors[start:stop], start, kind) for start, stop in shard_bounds(len(vectors), shards)]
    return ShardedPool(lambda question, *arguments: [getattr(part, question)(*arguments) for part in parts], depth)


def whole_numbers(seed: int, *shape: int) -> np.ndarray:
    """Vectors whose scores are exact and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 40))
def test_exact_ranks_and_lists_are_those_of_the_whole_with_every_tie(seed: int, shards: int, passages: int):
    vectors, queries = whole_numbers(seed, passages, 3), whole_numbers(seed + 1, 9, 3)
    rng = np.random.default_rng(seed)
    relevant = rng.integers(-1, passages, (9, 4))
    middle = passages // 2
    spans = [slice(0, middle), slice(middle, passages), slice(None)]
    one, many = ArrayPool(vectors), sharded(vectors, shards)
    assert many.ranks(queries, relevant, spans).tolist() == one.ranks(queries, relevant, spans).tolist()
    for found, expected in zip(many.top_k(queries, 5), one.top_k(queries, 5), strict=True):
        assert found.tolist() == expected.tolist()
    chosen = rng.integers(0, passages, 6).tolist()
    assert (many.vectors(chosen) == one.vectors(chosen)).all()


def test_shards_are_neighbours_of_nearly_equal_size():
    assert shard_bounds(3, 5) == [(0, 1), (1, 2), (2, 3)]
    bounds = shard_bounds(1003, 4)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1003
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    assert {stop - start for start, stop in bounds} == {250, 251}


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_indexes_find_most_and_say_what_they_miss(kind: str):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 32))
    vectors = (centres[rng.integers(0, 200, 20_000)] + 0.3 * rng.standard_normal((20_000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[::400] + 0.02 * rng.standard_normal((50, 32)).astype(np.float32)
    relevant = np.arange(0, 20_000, 400)[:, None]
    pool = sharded(vectors, 2, kind, depth=100)
    assert pool.recall_of_index(queries) > {"hnsw": 0.9, "ivfpq": 0.4}[kind]
    ranks = pool.ranks(queries, relevant, [slice(0, 10_000), slice(10_000, 20_000), slice(None)])
    assert (ranks[0][25:] == 0).all()
    assert (ranks[1][:25] == 0).all()
    assert (ranks[0][:25] != 0).all()
    assert (ranks[2] != 0).all()
    assert (ranks[2] > 0).mean() > 0.9
    assert set(np.unique(ranks[2][ranks[2] < 1]).tolist()) <= {metrics.ABSENT}


def test_an_approximate_index_searches_a_span_alone():
    vectors = whole_numbers(0, 300, 4) + np.random.default_rng(0).random((300, 4), dtype=np.float32)
    _, columns = SearchIndex(vectors, "hnsw").search(vectors[:20], 10, (100, 150))
    assert ((columns >= 100) & (columns < 150)).all()


def test_vectors_come_back_from_their_files_part_by_part(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((25, 6)).astype(np.float32)
    files = [write_part(tmp_path, number, vectors[first : first + 10]) for number, first in enumerate((0, 10, 20))]
    with pytest.raises(StoreError, match="no complete vectors"):
        VectorFiles(tmp_path)
    commit(tmp_path, files, [10, 10, 5], 6)
    found = VectorFiles(tmp_path)
    assert len(found) == 25
    assert (found.read(0, 25) == vectors).all()
    assert (found.read(8, 21) == vectors[8:21]).all()
    (tmp_path / files[1]).write_bytes(b"not Arrow")
    assert (found.read(20, 25) == vectors[20:]).all()
    with pytest.raises(StoreError, match=r"part-00001\.arrow is damaged; delete its folder"):
        found.read(8, 21)


def test_vectors_are_named_by_all_that_makes_them(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    name = vectors_fingerprint(str(tmp_path), "texts", "Passage: ")
    assert name == vectors_fingerprint(str(tmp_path), "texts", "Passage: ")
    assert name != vectors_fingerprint(str(tmp_path), "texts", "")
    assert name != vectors_fingerprint(str(tmp_path), "others", "Passage: ")
    (tmp_path / "weights").write_bytes(b"2")
    assert name != vectors_fingerprint(str(tmp_path), "texts", "Passage: ")
