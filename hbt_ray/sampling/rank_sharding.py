"""How a global batch is shared among ranks."""

from __future__ import annotations


def rank_slice(global_batch_pairs: int, num_ranks: int, rank: int, chunk_pairs: int = 1) -> slice:
    """The pairs of a global batch that a rank trains on. Slices are disjoint, in order, and join to the batch.

    Each is of whole chunks, and where the ranks do not divide the chunks, the first ranks take one more. Where
    there are fewer chunks than ranks, pairs are dealt out in the same way instead.

    >>> [rank_slice(10, 4, rank) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    >>> [rank_slice(16, 3, rank, chunk_pairs=4) for rank in range(3)]
    [slice(0, 8, None), slice(8, 12, None), slice(12, 16, None)]
    """
    chunks = -(-global_batch_pairs // chunk_pairs)
    if chunks < num_ranks:
        chunks, chunk_pairs = global_batch_pairs, 1
    each, more = divmod(chunks, num_ranks)
    start = rank * each + min(rank, more)
    end = start + each + (rank < more)
    return slice(min(start * chunk_pairs, global_batch_pairs), min(end * chunk_pairs, global_batch_pairs))


def rank_pairs(global_batch_pairs: int, num_ranks: int, chunk_pairs: int = 1) -> list[int]:
    """How many pairs each rank has."""
    slices = (rank_slice(global_batch_pairs, num_ranks, rank, chunk_pairs) for rank in range(num_ranks))
    return [own.stop - own.start for own in slices]
