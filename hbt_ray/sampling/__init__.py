"""The hybrid batch sampler: which pairs are in which batch, as a pure function of (manifest, mix, seed, step).

The order has two layers. A *stream* is the items of one source that have a given language, or a given ordered pair of
languages, repeated in epochs, each a seeded permutation. A *schedule* draws the stream of each step; the k-th batch of
a stream takes its k-th G items. Two runs that differ only in alpha therefore have the same batches in each stream, in
the same order, interleaved differently.

Legend: G pairs in a global batch, B pairs in the requested part of it (all of them, or those of one rank).
"""

from hbt_ray.sampling.batch_kinds import BatchKind, batch_kinds, monolingual_probability
from hbt_ray.sampling.hybrid_sampler import BatchSpec, HybridStepSampler
from hbt_ray.sampling.rank_sharding import pairs_per_rank, rank_slice
from hbt_ray.sampling.streams import Stream

__all__ = [
    "BatchKind",
    "BatchSpec",
    "HybridStepSampler",
    "Stream",
    "batch_kinds",
    "monolingual_probability",
    "pairs_per_rank",
    "rank_slice",
]
