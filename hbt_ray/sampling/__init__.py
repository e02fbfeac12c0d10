"""Which pairs stand in which batch: a pure function of (manifest, mix, seed, step).

The order has two layers. A *stream* is what one kind of batch draws from: the items of a source that have
a language, or an ordered pair of languages, in an endless row of epochs, each a seeded permutation. A
*schedule* says which stream each step draws from; the k-th batch of a stream takes its k-th G items. So
two runs that differ only in alpha meet the same batches in each stream, only interleaved differently.

Legend: G pairs in a global batch, B pairs of it that are asked for: all, or those of one rank.
"""

from hbt_ray.sampling.batch_kinds import BatchKind, kinds_of, monolingual_probability
from hbt_ray.sampling.hybrid_sampler import BatchSpec, HybridBatchSampler
from hbt_ray.sampling.rank_sharding import rank_pairs, rank_slice
from hbt_ray.sampling.streams import Stream

__all__ = [
    "BatchKind",
    "BatchSpec",
    "HybridBatchSampler",
    "Stream",
    "kinds_of",
    "monolingual_probability",
    "rank_pairs",
    "rank_slice",
]
