"""Affine maps after which a linear model of the vectors does not find the language: projection and LEACE.

All is computed in float64. Legend: N vectors, D width, L languages, R directions that are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EPSILON = float(np.finfo(np.float64).eps)
# Deviations of less than this part of a vector's length are rounding errors of an encoder in float32. Some direction
# often has no others, because values that a layer normalization has centred sum to 0.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class AffineMap:
    """The map x -> weight x + bias."""

    weight: np.ndarray  # (D, D) float64
    bias: np.ndarray  # (D,) float64
    rank: int  # R, of I - weight

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors, (N, D) -> (N, D) float64."""
        mapped: np.ndarray = np.asarray(vectors, np.float64) @ self.weight.T + self.bias
        return mapped


def means_by_language(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the mean vector of each language.

    Args:
        vectors: (N, D).
        labels: (N,) language of each, 0 to L - 1; each language has a vector.

    Returns:
        (L, D) float64.
    """
    languages = range(int(labels.max()) + 1)
    return np.stack([vectors[labels == language].mean(axis=0, dtype=np.float64) for language in languages])


def projection(vectors: np.ndarray, labels: np.ndarray, rank: int | None = None) -> AffineMap:
    """Project vectors on the complement of the span of the centred language means.

    With m_l the mean of language l and m the mean of these, let the columns of V (D, R) be the left singular vectors of
    [m_1 - m, ..., m_L - m] with the R largest singular values. The map is x -> (I - V V^T) x. For R = L - 1 all
    languages have the mean (I - V V^T) m afterwards. Of all orthogonal projections of rank D - R it leaves the least
    variance between the means (Eckart and Young 1936).

    Args:
        vectors: (N, D).
        labels: (N,) language of each, 0 to L - 1.
        rank: the maximum of R. None: L - 1, which is the largest that the means can span.
    """
    means = means_by_language(vectors, labels)
    removed = _leading_directions((means - means.mean(axis=0)).T, rank, _length(vectors))
    return AffineMap(np.eye(len(removed)) - removed @ removed.T, np.zeros(len(removed)), removed.shape[1])


def leace(vectors: np.ndarray, labels: np.ndarray, rank: int | None = None) -> AffineMap:
    """Erase the language by least squares: LEACE (Belrose et al. 2023, arXiv 2306.03819).

        r(x) = x - W^+ P W (x - E[x]),    W = (Sigma_xx^1/2)^+

    Sigma_xx (D, D) is the covariance of the vectors, Sigma_xz (D, L) their cross-covariance with the language as a
    one-hot vector, ^+ the pseudo-inverse, and P the orthogonal projection on the column space of W Sigma_xz. The
    cross-covariance of r(x) with the language is 0, so no linear classifier finds it better than a constant; of all
    affine maps with this property, r has the least mean squared distance from x.

    Directions in which the vectors differ by rounding only are left as they are: their variance counts as 0.
    With a smaller rank, P is the projection on the left singular vectors of W Sigma_xz with the largest values.

    Args:
        vectors: (N, D).
        labels: (N,) language of each, 0 to L - 1.
        rank: the maximum of R. None: L - 1.
    """
    vectors = np.asarray(vectors, np.float64)
    mean = vectors.mean(axis=0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)
    shares = np.bincount(labels) / len(labels)
    cross = (means_by_language(vectors, labels) - mean).T * shares  # (D, L)
    variances, axes = np.linalg.eigh(covariance)
    kept = variances > (_ROUNDING * _length(vectors)) ** 2
    axes, deviations = axes[:, kept], np.sqrt(variances[kept])
    whiten, unwhiten = (axes / deviations) @ axes.T, (axes * deviations) @ axes.T
    removed = _leading_directions(whiten @ cross, rank, 1.0)
    weight = np.eye(len(mean)) - unwhiten @ removed @ removed.T @ whiten
    return AffineMap(weight, mean - weight @ mean, removed.shape[1])


def _length(vectors: np.ndarray) -> float:
    """Return the root mean square of the vectors' lengths."""
    return float(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1).mean()))


def _leading_directions(columns: np.ndarray, rank: int | None, scale: float) -> np.ndarray:
    """Return the left singular vectors (D, R) of L columns (D, L) whose weighted sum is 0, largest values first.

    Args:
        columns: they span at most L - 1 dimensions; what rounding adds is left out.
        rank: the maximum of R.
        scale: the length of the vectors from whose rounding the columns are known.
    """
    directions, values, _ = np.linalg.svd(columns, full_matrices=False)
    limit = columns.shape[1] - 1 if rank is None else min(rank, columns.shape[1] - 1)
    significant = int(np.count_nonzero(values > max(columns.shape) * _EPSILON * scale))
    leading: np.ndarray = directions[:, : min(limit, significant)]
    return leading
