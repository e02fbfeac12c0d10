from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.models.padding import pad

SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=12)


def test_pad_fills_each_row_after_its_tokens():
    ids, mask = pad(np.array([5, 6, 7, 8, 9, 4], np.int32), np.array([2, 1, 3]), padding=1)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 4]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int64


@given(texts=SEQUENCES.filter(any))
def test_tokens_under_the_mask_are_the_sequences(texts):
    lengths = np.array([len(text) for text in texts])
    ids, mask = pad(np.array([token for text in texts for token in text], np.int32), lengths, padding=9)
    assert [row[: mark.sum()].tolist() for row, mark in zip(ids, mask, strict=True)] == texts
    assert ids.shape == (len(texts), lengths.max())
    assert (ids[mask == 0] == 9).all()
