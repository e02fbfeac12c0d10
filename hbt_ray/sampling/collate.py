"""Batches of pairs as token ids, read from the store as a sampler's spec says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbt_ray.data.manifest import TextField
from hbt_ray.data.token_store import TokenSequences, TokenStore
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.hybrid_sampler import BatchSpec
from hbt_ray.sampling.rank_sharding import rank_slice
from hbt_ray.utils.counter_rng import mix

NO_TRANSLATIONS = np.zeros(0, np.int32)


def build_batch(
    spec: BatchSpec, store: TokenStore, rank: int = 0, num_ranks: int = 1, chunk_pairs: int = 1
) -> PairBatch:
    """Read a rank's slice of a batch from the store. Any process can build the slice of any rank.

    If the spec is already the rank's part of the global batch (`StepSampler.rank_batches`), leave out `num_ranks`.
    """
    part = rank_slice(len(spec.rows), num_ranks, rank, chunk_pairs)
    rows, query_languages = spec.rows[part], spec.query_languages[part]
    passage_languages = spec.passage_languages[part.start * spec.positives : part.stop * spec.positives]
    queries = _take(store, spec, "question", query_languages, rows)
    second_languages = spec.second_languages[part]
    translation_of = np.flatnonzero(second_languages != "")
    if len(translation_of):
        translations = _take(store, spec, "question", second_languages[translation_of], rows[translation_of])
        queries = _concatenate([queries, translations])
    passages = _take(store, spec, "passage", passage_languages, np.repeat(rows, spec.positives))
    components = store.components(spec.source, rows, spec.split)
    passage_components = np.repeat(components, spec.positives)
    if spec.hard_negatives:
        # In the passage's language; if a pair has passages in several languages, in the query's.
        negative_languages = passage_languages if spec.positives == 1 else query_languages
        passages = _concatenate([passages, _take_negatives(store, spec, negative_languages, rows)])
        of_negatives = [
            store.negative_components(spec.source, language, rows[index : index + 1], spec.hard_negatives, spec.split)
            for index, language in enumerate(negative_languages.tolist())
        ]
        passage_components = np.concatenate([passage_components, *of_negatives])
    return make_pair_batch(
        queries,
        passages,
        step=spec.step,
        first_pair=spec.first_pair + part.start,
        global_pairs=spec.global_pairs,
        kind=spec.kind,
        positives=spec.positives,
        translation_of=translation_of.astype(np.int32),
        query_components=components,
        passage_components=passage_components,
    )


def build_batch_with_global_ids(
    spec: BatchSpec, store: TokenStore, rank: int, num_ranks: int, chunk_pairs: int
) -> PairBatch:
    """Read a rank's slice of a global batch as `build_batch` does, and which token ids occur in the whole batch."""
    whole = build_batch(spec, store)
    ids = np.unique(np.concatenate([whole.query_ids, whole.passage_ids]))
    return replace(build_batch(spec, store, rank, num_ranks, chunk_pairs), global_ids=ids)


def make_pair_batch(
    queries: TokenSequences,
    passages: TokenSequences,
    *,
    step: int,
    first_pair: int,
    global_pairs: int,
    kind: str,
    positives: int = 1,
    translation_of: np.ndarray = NO_TRANSLATIONS,
    query_components: np.ndarray | None = None,
    passage_components: np.ndarray | None = None,
) -> PairBatch:
    """Make a batch of queries and passages, both in the order of `PairBatch`, and hash them.

    Components are 0 by default: it is not known which texts belong to items with texts in common.
    """
    num_pairs = len(queries[1]) - len(translation_of)
    originals = (queries[0][: int(queries[1][:num_pairs].sum())], queries[1][:num_pairs])
    return PairBatch(
        step=step,
        first_pair=first_pair,
        global_pairs=global_pairs,
        kind=kind,
        query_ids=queries[0],
        query_lengths=queries[1],
        passage_ids=passages[0],
        passage_lengths=passages[1],
        query_keys=hash_sequences(*originals),
        passage_keys=hash_sequences(*passages),
        positives=positives,
        translation_of=translation_of,
        query_components=np.zeros(num_pairs, np.int64) if query_components is None else query_components,
        passage_components=(np.zeros(len(passages[1]), np.int64) if passage_components is None else passage_components),
    )


def hash_sequences(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return a hash of each sequence, (N,) int64. Equal sequences have equal hashes; others differ but for 1 in 2^64.

    A sequence's hash is the sum, modulo 2^64, of a hash of (position, id) over its tokens. All sums are differences of
    one cumulative sum, so no loop over sequences is needed.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    longest = int(lengths.max(initial=0))
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    terms = mix(mix(np.arange(1, longest + 1))[positions] + ids.astype(np.uint64))
    cumulative = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return (cumulative[starts + lengths] - cumulative[starts]).view(np.int64)


def _take(
    store: TokenStore, spec: BatchSpec, field: TextField, languages: np.ndarray, rows: np.ndarray
) -> TokenSequences:
    if (languages == languages[0]).all():
        return store.take(spec.source, field, str(languages[0]), rows, spec.split)
    return _concatenate(
        [
            store.take(spec.source, field, str(language), rows[index : index + 1], spec.split)
            for index, language in enumerate(languages)
        ]
    )


def _take_negatives(store: TokenStore, spec: BatchSpec, languages: np.ndarray, rows: np.ndarray) -> TokenSequences:
    return _concatenate(
        [
            store.take_negatives(spec.source, str(language), rows[index : index + 1], spec.hard_negatives, spec.split)
            for index, language in enumerate(languages)
        ]
    )


def _concatenate(parts: list[TokenSequences]) -> TokenSequences:
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])
