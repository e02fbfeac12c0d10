"""Batches of blocks as masked token ids, and of texts paired with themselves, as a sampler's spec says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_ray.data.token_store import TokenStore
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import BlockBatchSpec, TextBlockSampler
from hbt_ray.pretraining.masking import MaskRules, mask_tokens
from hbt_ray.pretraining.text_streams import Texts, TextStream, read_texts, read_window
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import make_pair_batch
from hbt_ray.utils.counter_rng import Salt, stable_hash64

COUNTED_TOKENS = 2**20  # tokens from which token frequencies are estimated


def build_blocks(
    spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore, rules: MaskRules, seed: int
) -> TokenBlockBatch:
    """Read the blocks of a batch and mask them. Any process can build any part of the batch.

    The key of a block's masks is (seed, step, position in the global batch).
    """
    blocks = _read_blocks(spec, sampler, store)
    keys = [stable_hash64(seed, Salt.MASK, spec.step, spec.first_block + index) for index in range(len(blocks))]
    return collate_blocks(blocks, rules, keys, spec.step, spec.first_block, spec.global_blocks)


def _read_blocks(spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore) -> list[Texts]:
    return [
        read_window(store, sampler.streams[number], first_token, sampler.pretrain.block_tokens)
        for number, first_token in zip(spec.streams.tolist(), spec.places.tolist(), strict=True)
    ]


def collate_blocks(
    blocks: Sequence[Texts],
    rules: MaskRules,
    keys: Sequence[int],
    step: int = 0,
    first_block: int = 0,
    global_blocks: int | None = None,
) -> TokenBlockBatch:
    """Mask blocks of equal length, each with its key, and concatenate them.

    Args:
        blocks: ids and lengths of the texts of each block.
        rules: of masking.
        keys: of each block's masks.
        step: of the batch.
        first_block: position of the first block in the global batch.
        global_blocks: blocks of the global batch; None: these are all.
    """
    masked = [mask_tokens(ids, rules, key) for (ids, _), key in zip(blocks, keys, strict=True)]
    return TokenBlockBatch(
        step=step,
        first_block=first_block,
        global_blocks=len(blocks) if global_blocks is None else global_blocks,
        ids=np.concatenate([input_ids for input_ids, _ in masked]),
        targets=np.concatenate([labels for _, labels in masked]),
        lengths=np.concatenate([lengths for _, lengths in blocks]),
        texts_per_block=np.array([len(lengths) for _, lengths in blocks], np.int32),
    )


def token_counts(sampler: TextBlockSampler, store: TokenStore, rules: MaskRules) -> np.ndarray:
    """Count each token in the first batches, at least COUNTED_TOKENS tokens: (vocabulary,); special tokens count 0."""
    counts = np.zeros(rules.num_tokens, np.int64)
    batch_tokens = sampler.pretrain.global_batch_blocks * sampler.pretrain.block_tokens
    for step in range(-(-COUNTED_TOKENS // batch_tokens)):
        blocks = _read_blocks(sampler.batch(step), sampler, store)
        counts += np.bincount(np.concatenate([ids for ids, _ in blocks]), minlength=rules.num_tokens)
    counts[list(rules.special_ids)] = 0
    return counts


def build_simcse_pairs(spec: BlockBatchSpec, sampler: TextBlockSampler, store: TokenStore) -> PairBatch:
    """Pair each text of a batch with itself; the two embeddings differ by dropout (SimCSE, arXiv 2104.08821)."""
    stream = sampler.streams[int(spec.streams[0])]
    return simcse_pairs(store, stream, spec.places, spec.step, spec.first_block, spec.global_blocks)


def simcse_pairs(
    store: TokenStore,
    stream: TextStream,
    texts: np.ndarray,
    step: int = 0,
    first_pair: int = 0,
    global_pairs: int | None = None,
) -> PairBatch:
    """Pair texts of a stream, (N,) numbers, with themselves; see `collate_blocks` for the other arguments."""
    sequences = read_texts(store, stream, texts)
    return make_pair_batch(
        sequences,
        sequences,
        step=step,
        first_pair=first_pair,
        global_pairs=len(texts) if global_pairs is None else global_pairs,
        kind="monolingual",
    )
