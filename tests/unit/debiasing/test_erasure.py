"""Planted language offsets are removed exactly, with the least change; compared with a second formula of LEACE."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.debiasing.erasure import leace, means_by_language, projection

METHODS = (projection, leace)


def planted(languages: int = 4, texts: int = 60, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors with a correlated spread, to which a vector of their language is added."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(languages), texts)
    spread = rng.normal(size=(languages * texts, width)) @ rng.normal(size=(width, width))
    return spread + 5 * rng.normal(size=(languages, width))[labels] + rng.normal(size=width), labels


def cross_covariance(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the cross-covariance (D, L) with the one-hot language, text by text."""
    one_hot = np.eye(labels.max() + 1)[labels]
    centred = vectors - vectors.mean(axis=0)
    return np.asarray(centred.T @ (one_hot - one_hot.mean(axis=0)) / len(labels))


def second_leace(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute x - S (S^T C^+ S)^+ S^T C^+ (x - m), C the covariance, S the cross-covariance: no square root, no SVD.

    It is the least-squares solution by Lagrange multipliers of: minimize E|Q x|^2 subject to Q S = S.
    """
    mean, cross = vectors.mean(axis=0), cross_covariance(vectors, labels)
    inverse = np.linalg.pinv(np.cov(vectors.T, bias=True))
    removed = cross @ np.linalg.pinv(cross.T @ inverse @ cross, rcond=1e-10) @ cross.T @ inverse
    return vectors - (vectors - mean) @ removed.T


def test_means_are_those_of_each_language():
    vectors, labels = np.array([[1.0, 0.0], [5.0, 4.0], [3.0, 2.0]], np.float32), np.array([0, 1, 0])
    assert means_by_language(vectors, labels).tolist() == [[2.0, 1.0], [5.0, 4.0]]


def test_projection_of_two_languages_by_hand():
    # The means are (1, 0, 1) and (3, 0, 1): their difference is the first axis.
    vectors = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [3.0, 2.0, 0.0], [3.0, -2.0, 2.0]])
    found = projection(vectors, np.array([0, 0, 1, 1]))
    assert np.allclose(found.weight, np.diag([0.0, 1.0, 1.0]))
    assert (found.rank, found.bias.tolist()) == (1, [0.0, 0.0, 0.0])


def test_leace_of_two_languages_by_hand():
    # Both axes have variance 1 and do not correlate; the language is the first one. It becomes its mean, 2.
    vectors, labels = np.array([[1.0, 1.0], [1.0, -1.0], [3.0, 1.0], [3.0, -1.0]]), np.array([0, 0, 1, 1])
    found = leace(vectors, labels)
    assert np.allclose(found(vectors), [[2.0, 1.0], [2.0, -1.0], [2.0, 1.0], [2.0, -1.0]])


@pytest.mark.parametrize("method", METHODS)
def test_language_means_are_equal_afterwards(method):
    vectors, labels = planted()
    found = method(vectors, labels)
    means = means_by_language(found(vectors), labels)
    assert np.abs(means - means[0]).max() < 1e-10
    assert found.rank == np.linalg.matrix_rank(np.eye(12) - found.weight, tol=1e-8) == 3


@pytest.mark.parametrize("method", METHODS)
def test_removing_twice_changes_nothing_more(method):
    vectors, labels = planted()
    found = method(vectors, labels)
    assert np.allclose(found(found(vectors)), found(vectors), atol=1e-9)


def test_leace_leaves_no_cross_covariance_and_the_mean():
    vectors, labels = planted(seed=1)
    erased = leace(vectors, labels)(vectors)
    assert np.abs(cross_covariance(erased, labels)).max() < 1e-10
    assert np.allclose(erased.mean(axis=0), vectors.mean(axis=0), atol=1e-10)


@pytest.mark.parametrize("texts", [60, 2])
def test_leace_equals_a_second_formula(texts):
    vectors, labels = planted(texts=texts, seed=2)  # 8 texts of 12 values: the covariance is singular
    assert np.allclose(leace(vectors, labels)(vectors), second_leace(vectors, labels), atol=1e-7)


def test_leace_is_not_inflated_by_a_direction_of_rounding_errors():
    vectors, labels = planted(seed=8)
    vectors -= vectors.mean(axis=1, keepdims=True)  # as a layer normalization does: one direction has no variance
    rounded = (vectors + 1e-7 * np.random.default_rng(9).normal(size=vectors.shape)).astype(np.float32)
    assert np.abs(leace(rounded, labels).weight).max() < 2
    assert np.allclose(leace(rounded, labels)(vectors), leace(vectors, labels)(vectors), atol=1e-4)


def test_leace_changes_vectors_less_than_projection():
    vectors, labels = planted(seed=3)
    centred = vectors - vectors.mean(axis=0)  # where the projection's linear map is the best affine one of its kind
    changes = [np.square(method(centred, labels)(centred) - centred).sum() for method in METHODS]
    assert changes[1] < 0.999 * changes[0]


def test_leace_is_invariant_to_an_invertible_map():
    vectors, labels = planted(seed=4)
    mixing = np.random.default_rng(5).normal(size=(12, 12))
    erased = leace(vectors, labels)(vectors)
    # E|x - r(x)|^2 is minimized for every inner product at once, so the map commutes with a change of basis.
    assert np.allclose(leace(vectors @ mixing, labels)(vectors @ mixing), erased @ mixing, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_smaller_rank_removes_the_leading_directions(method):
    vectors, labels = planted(seed=6)
    spans = []
    for rank in (1, 2, 3):
        found = method(vectors, labels, rank)
        assert found.rank == rank
        means = means_by_language(found(vectors), labels)
        spans.append(np.square(means - means.mean(axis=0)).sum())
    assert spans[0] > spans[1] > spans[2]
    assert spans[2] < 1e-20


@pytest.mark.parametrize("method", METHODS)
def test_languages_with_one_mean_are_left_as_they_are(method):
    vectors = np.random.default_rng(7).normal(size=(30, 5))
    found = method(np.concatenate([vectors, vectors]), np.repeat([0, 1], 30))
    assert found.rank == 0
    assert np.array_equal(found.weight, np.eye(5))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.integers(2, 8), st.integers(2, 6), st.integers(0, 1000), st.sampled_from(METHODS))
def test_any_shape_loses_its_languages(languages, texts, width, seed, method):
    vectors, labels = planted(languages, texts, width, seed)
    found = method(vectors, labels)
    assert (found.weight.shape, found.bias.shape) == ((width, width), (width,))
    assert found.rank <= min(languages - 1, width)
    means = means_by_language(found(vectors), labels)
    assert np.abs(means - means[0]).max() < 1e-6 * np.abs(vectors).max()
    if languages > width:  # the means span everything: nothing is left but a point
        assert np.abs(found(vectors) - found(vectors)[0]).max() < 1e-6 * np.abs(vectors).max()
