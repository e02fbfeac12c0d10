"""Alignment of parallel texts, on paper and against the plain way of computing it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.evaluation.alignment import align, alignment_metrics, uniformity


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_align_equals_what_the_whole_matrix_says(seed: int, count: int):
    rng = np.random.default_rng(seed)
    one, other = unit(rng, count, 5), unit(rng, count, 5)
    cosines = one.astype(float) @ other.T.astype(float)
    found = align(one, other, (1, 3))
    own = np.eye(count, dtype=bool)
    assert found.parallel == pytest.approx(cosines[own].mean(), abs=1e-5)
    assert found.others == pytest.approx(cosines[~own].mean(), abs=1e-5)
    nearest = [[int(n) for n in np.argsort(-row)] for row in cosines]
    assert found.recall[1] == np.mean([row == ranks[0] for row, ranks in enumerate(nearest)])
    assert found.recall[3] == np.mean([row in ranks[:3] for row, ranks in enumerate(nearest)])


def test_collapsed_model_has_recall_zero_and_no_uniformity():
    point = np.tile(np.array([1.0, 0.0], np.float32), (20, 1))
    found = align(point, point)
    assert (found.parallel, found.others) == (1, 1)
    assert found.recall == {1: 0.0, 10: 0.0}
    assert uniformity(point) == 0


def test_uniformity_of_four_corners_on_paper():
    corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    # Each has two neighbours at a squared distance of 2 and one opposite at 4.
    assert uniformity(corners) == pytest.approx(np.log((2 * np.exp(-4) + np.exp(-8)) / 3))


def test_alignment_reports_every_ordered_pair_and_the_mean():
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    vectors = np.array([east, north, east, north, north, west])
    groups = ["a", "b", "a", "b", "a", "b"]
    found = alignment_metrics(groups, ["de", "de", "en", "en", "tr", "tr"], vectors)
    assert found["cosine/de-en"] == found["recall@1/de-en"] == found["recall@1/en-de"] == 1
    assert found["cosine/de-tr"] == found["cosine/tr-de"] == 0
    assert found["cosine_of_others/de-tr"] == pytest.approx((-1 + 1) / 2)
    assert found["cosine"] == pytest.approx((1 + 1 + 0 + 0 + 0 + 0) / 6)
    assert found["recall@10"] == 1


def test_texts_without_a_parallel_have_no_alignment():
    vectors = np.eye(3)
    assert alignment_metrics(["", "", ""], ["de", "en", "tr"], vectors) == {}
    assert (
        alignment_metrics(["a", "b", "a"], ["de", "de", "en"], vectors) == {}
    )  # a pair needs another to stand out from
