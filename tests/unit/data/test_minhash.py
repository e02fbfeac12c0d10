from __future__ import annotations

import numpy as np
import pytest
from datasketch import MinHash

from hbt_ray.data.minhash import (
    SHINGLE_CHARS,
    choose_band_rows,
    hash_bands,
    hash_shingles,
    minhash_signatures,
    miss_probability,
    shingle_set,
)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_text_at_the_threshold_is_missed_at_most_once_in_a_thousand(threshold: float):
    assert miss_probability(threshold, choose_band_rows(threshold)) <= 1e-3


def test_shingle_set_has_each_distinct_substring_in_any_script():
    for text in ("abcdefg abcdefg", "ความรู้เกี่ยวกับ", "𝒳𝒴😀😀😀😀😀😀", "abcd", ""):
        assert len(shingle_set(text)) == len(
            {text[n : n + SHINGLE_CHARS] for n in range(len(text) - SHINGLE_CHARS + 1)}
        )


def test_bands_of_equal_values_have_different_hashes():
    bands = hash_bands(np.zeros(128, np.uint32), 4)
    assert len(set(bands.tolist())) == 32


def test_signatures_equal_datasketch_s():
    texts = ["the first of three texts", "the second one", "third, longer than the others"]
    signatures = minhash_signatures(*hash_shingles(texts))
    for text, signature in zip(texts, signatures, strict=True):
        sketch = MinHash(num_perm=128, seed=1, hashfunc=int)
        sketch.update_batch((shingle_set(text) >> np.uint64(32)).tolist())
        assert np.array_equal(signature, sketch.hashvalues)
