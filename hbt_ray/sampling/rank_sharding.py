"""Division of a global batch among ranks. Loss, trainer and benchmarks need it without a sampler."""

from __future__ import annotations


def rank_slice(global_batch_size: int, num_ranks: int, rank: int, chunk_size: int = 1) -> slice:
    """Return the positions of a global batch that a rank trains on.

    The slices of all ranks are disjoint, in the order of the ranks, and cover the batch:

    1. Cut the batch into chunks of `chunk_size` examples; the last one may be shorter.
    2. Give each rank the same number of consecutive chunks. If they cannot be divided evenly, each of the first ranks
       takes one more.
    3. If there are fewer chunks than ranks, do the same with single examples.

    Chunks are encoded together and share a dropout key. Whole chunks on each rank make the dropout masks independent
    of the number of ranks.

    >>> [rank_slice(10, 4, rank) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    >>> [rank_slice(16, 3, rank, chunk_size=4) for rank in range(3)]
    [slice(0, 8, None), slice(8, 12, None), slice(12, 16, None)]
    """
    chunks = -(-global_batch_size // chunk_size)
    if chunks < num_ranks:
        chunks, chunk_size = global_batch_size, 1
    chunks_per_rank, remainder = divmod(chunks, num_ranks)
    start = rank * chunks_per_rank + min(rank, remainder)
    end = start + chunks_per_rank + (rank < remainder)
    return slice(min(start * chunk_size, global_batch_size), min(end * chunk_size, global_batch_size))


def pairs_per_rank(global_batch_pairs: int, num_ranks: int, chunk_pairs: int = 1) -> list[int]:
    """Return the number of pairs of each rank."""
    slices = (rank_slice(global_batch_pairs, num_ranks, rank, chunk_pairs) for rank in range(num_ranks))
    return [part.stop - part.start for part in slices]
