"""A batch's blocks as token ids: what the plan says, read from the store, and masked."""

from __future__ import annotations

import numpy as np

from hbt_ray.data.token_store import TokenStore
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.block_sampler import BlocksSpec, TextBlockSampler
from hbt_ray.pretraining.masking import MaskRules, mask
from hbt_ray.pretraining.text_streams import TextStream, read_texts, read_window
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import hash_sequences
from hbt_ray.utils.counter_rng import Salt, stable_hash64

COUNTED = 2**20  # tokens of which it is counted how frequent each is


def build_blocks(
    spec: BlocksSpec, plan: TextBlockSampler, store: TokenStore, rules: MaskRules, seed: int
) -> TokenBlockBatch:
    """The blocks of a batch, masked by (seed, step, block's place). Any process can build any of them."""
    read = _read(spec, plan, store)
    keys = [stable_hash64(seed, Salt.MASK, spec.step, spec.first_block + place) for place in range(len(read))]
    return collate_blocks(read, rules, keys, spec.step, spec.first_block, spec.global_blocks)


def _read(spec: BlocksSpec, plan: TextBlockSampler, store: TokenStore) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids of each block, and the lengths of its texts."""
    return [
        read_window(store, plan.streams[number], place, plan.pretrain.block_tokens)
        for number, place in zip(spec.streams.tolist(), spec.places.tolist(), strict=True)
    ]


def collate_blocks(
    read: list[tuple[np.ndarray, np.ndarray]],
    rules: MaskRules,
    keys: list[int],
    step: int = 0,
    first_block: int = 0,
    global_blocks: int | None = None,
) -> TokenBlockBatch:
    """Blocks of equally many tokens, each with the lengths of its texts and the key of its masks."""
    masked = [mask(ids, rules, key) for (ids, _), key in zip(read, keys, strict=True)]
    return TokenBlockBatch(
        step=step,
        first_block=first_block,
        global_blocks=len(read) if global_blocks is None else global_blocks,
        ids=np.concatenate([seen for seen, _ in masked]),
        targets=np.concatenate([told for _, told in masked]),
        lengths=np.concatenate([lengths for _, lengths in read]),
        texts_per_block=np.array([len(lengths) for _, lengths in read], np.int32),
    )


def token_counts(plan: TextBlockSampler, store: TokenStore, rules: MaskRules) -> np.ndarray:
    """(vocabulary,) how often each token stands in the first batches, a million tokens or so; special ones never do."""
    counts = np.zeros(rules.num_tokens, np.int64)
    per_batch = plan.pretrain.global_batch_blocks * plan.pretrain.block_tokens
    for step in range(-(-COUNTED // per_batch)):
        spec = plan.batch(step)
        counts += np.bincount(np.concatenate([ids for ids, _ in _read(spec, plan, store)]), minlength=rules.num_tokens)
    counts[list(rules.special_ids)] = 0
    return counts


def build_simcse_pairs(spec: BlocksSpec, plan: TextBlockSampler, store: TokenStore) -> PairBatch:
    """The texts of a batch, each paired with itself: what dropout makes of them differs (SimCSE, arXiv 2104.08821)."""
    stream = plan.streams[int(spec.streams[0])]
    return twins(store, stream, spec.places, spec.step, spec.first_block, spec.global_blocks)


def twins(
    store: TokenStore,
    stream: TextStream,
    texts: np.ndarray,
    step: int = 0,
    first_pair: int = 0,
    global_pairs: int | None = None,
) -> PairBatch:
    """Some texts of a stream, each paired with itself."""
    ids, lengths = read_texts(store, stream, texts)
    keys = hash_sequences(ids, lengths)
    return PairBatch(
        step=step,
        first_pair=first_pair,
        global_pairs=len(texts) if global_pairs is None else global_pairs,
        kind="monolingual",
        query_ids=ids,
        query_lengths=lengths,
        passage_ids=ids,
        passage_lengths=lengths,
        query_keys=keys,
        passage_keys=keys,
    )
