"""A digest of the order in which a training draws its pairs."""

from __future__ import annotations

import hashlib

import numpy as np

from hbt_ray.sampling.hybrid_sampler import BatchSpec, HybridStepSampler

MAX_BATCHES = 256  # that are hashed


def order_digest(sampler: HybridStepSampler, batches: int) -> str:
    """Return 16 hex digits of the pairs in batches 0, ..., `batches` - 1: trainings of equal order have equal digests.

    All batches are hashed, or MAX_BATCHES of them at equal distances, the first and the last included.

    Args:
        sampler: of the training batches.
        batches: number of the batches of the whole training.
    """
    digest = hashlib.sha256(f"{batches}".encode())
    for number in np.unique(np.linspace(0, max(batches - 1, 0), min(batches, MAX_BATCHES)).astype(np.int64)).tolist():
        digest.update(spec_bytes(sampler.batch(number)))
    return digest.hexdigest()[:16]


def spec_bytes(spec: BatchSpec) -> bytes:
    """Return bytes that are equal for equal pairs in the same order."""
    languages = (*spec.query_languages, "", *spec.second_languages, "", *spec.passage_languages)
    names = "\n".join((spec.source, spec.split, str(spec.hard_negatives), *map(str, languages)))
    return spec.rows.astype("<i8").tobytes() + names.encode()
