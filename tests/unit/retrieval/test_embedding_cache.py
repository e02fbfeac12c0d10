"""Vectors come back from their files as they were written, or the file is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.errors import StoreError
from hbt_ray.retrieval.embedding_cache import (
    EmbeddingCache,
    vectors_fingerprint,
    write_cache_manifest,
    write_embedding_shard,
)
from tests.helpers.damage import EXAMPLES, Damage, check_damaged, damages, flip_bit, malformed_cases


def test_vectors_come_back_from_their_files_part_by_part(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((25, 6)).astype(np.float32)
    files = [
        write_embedding_shard(tmp_path, number, vectors[first : first + 10]) for number, first in enumerate((0, 10, 20))
    ]
    with pytest.raises(StoreError, match="no complete vectors"):
        EmbeddingCache(tmp_path)
    write_cache_manifest(tmp_path, files, 6)
    found = EmbeddingCache(tmp_path)
    assert len(found) == 25
    assert (found.take(np.arange(25)) == vectors).all()
    assert (found.take(np.array([24, 3, 3, 12])) == vectors[[24, 3, 3, 12]]).all()
    (tmp_path / files[1].file).write_bytes(b"not Arrow")
    assert (found.take(np.arange(20, 25)) == vectors[20:]).all()
    with pytest.raises(StoreError, match=r"part-00001\.arrow is damaged; delete its folder"):
        found.take(np.arange(8, 21))


@pytest.mark.parametrize("row", [-1, 3])
def test_row_that_no_file_has_is_refused(tmp_path, row):
    write_cache_manifest(tmp_path, [write_embedding_shard(tmp_path, 0, np.ones((3, 2), np.float32))], 2)
    with pytest.raises(StoreError, match=rf"has 3 vectors, no row {row}; delete it to embed again"):
        EmbeddingCache(tmp_path).take(np.array([2, row]))


@pytest.mark.parametrize("damage", ["bit", "swap", "manifest", "earlier"])
def test_changed_vectors_are_refused_by_name(tmp_path, damage):
    vectors = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    parts = [write_embedding_shard(tmp_path, number, vectors[10 * number :][:10]) for number in (0, 1)]
    write_cache_manifest(tmp_path, parts, 6)
    one, other = (tmp_path / part.file for part in parts)
    manifest, message = tmp_path / "vectors.json", r"part-00000\.arrow is damaged; delete its folder to embed again"
    if damage == "bit":
        flip_bit(one)
    elif damage == "swap":
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        message = "no complete vectors in .*; delete it to embed again"
        plain = {"width": 6, "parts": [{"file": part.file, "size": 10} for part in parts]}
        changed = manifest.read_text().replace("10", "11", 1)
        manifest.write_text(changed if damage == "manifest" else json.dumps(plain))
    with pytest.raises(StoreError, match=message):
        EmbeddingCache(tmp_path).take(np.arange(10))


def test_vectors_are_named_by_all_that_makes_them(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    name = vectors_fingerprint(str(tmp_path), "texts", "Passage: ")
    assert name == vectors_fingerprint(str(tmp_path), "texts", "Passage: ")
    assert name != vectors_fingerprint(str(tmp_path), "texts", "")
    assert name != vectors_fingerprint(str(tmp_path), "others", "Passage: ")
    (tmp_path / "weights").write_bytes(b"2")
    assert name != vectors_fingerprint(str(tmp_path), "texts", "Passage: ")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("cache")
    vectors = np.arange(120, dtype=np.float32).reshape(20, 6)
    write_cache_manifest(folder, [write_embedding_shard(folder, n, vectors[10 * n :][:10]) for n in (0, 1)], 6)
    return folder


@malformed_cases(3 * EXAMPLES, damage=damages)
def test_damaged_vectors_are_read_equal_or_refused_by_name(cache: Path, damage: Damage):
    check_damaged(cache, damage, lambda folder: EmbeddingCache(folder).take(np.arange(20)).tolist())
