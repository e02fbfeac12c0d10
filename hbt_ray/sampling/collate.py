"""A batch's pairs as token ids: what the plan says, read from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hbt_ray.data.token_store import TextField, TokenStore
from hbt_ray.sampling import BatchSpec, rank_slice
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.utils.counter_rng import mix

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NO_SECONDS = np.zeros(0, np.int32)
TokenSequences = tuple[np.ndarray, np.ndarray]  # ids of N sequences one after the other, and their lengths; both int32


def build_batch(
    spec: BatchSpec, store: TokenStore, rank: int = 0, num_ranks: int = 1, chunk_pairs: int = 1
) -> PairBatch:
    """The slice of a global batch that one rank trains on. Any process can build any rank's.

    A rank may as well plan its own pairs alone, `plan.batch(step, rank_slice(...))`, and build all of those.
    """
    mine = rank_slice(len(spec.rows), num_ranks, rank, chunk_pairs)
    rows, query_languages = spec.rows[mine], spec.query_languages[mine]
    passage_languages = spec.passage_languages[mine.start * spec.positives : mine.stop * spec.positives]
    query_ids, query_lengths = _take(store, spec, "question", query_languages, rows)
    second_languages = spec.second_languages[mine]
    second_of = np.flatnonzero(second_languages != "")
    if len(second_of):
        ids, lengths = _take(store, spec, "question", second_languages[second_of], rows[second_of])
        query_ids = np.concatenate([query_ids, ids])
        query_lengths = np.concatenate([query_lengths, lengths])
    passage_ids, passage_lengths = _take(store, spec, "passage", passage_languages, np.repeat(rows, spec.positives))
    if spec.hard_negatives:
        # In the passage's language; where passages have several, in the question's.
        ids, lengths = _take_negatives(store, spec, passage_languages if spec.positives == 1 else query_languages, rows)
        passage_ids = np.concatenate([passage_ids, ids])
        passage_lengths = np.concatenate([passage_lengths, lengths])
    return batch_of(
        (query_ids, query_lengths),
        (passage_ids, passage_lengths),
        step=spec.step,
        first_pair=spec.first_pair + mine.start,
        global_pairs=spec.global_pairs,
        kind=spec.kind,
        positives=spec.positives,
        second_of=second_of.astype(np.int32),
    )


def batch_of(
    queries: TokenSequences,
    passages: TokenSequences,
    *,
    step: int,
    first_pair: int,
    global_pairs: int,
    kind: str,
    positives: int = 1,
    second_of: np.ndarray = NO_SECONDS,
) -> PairBatch:
    """A batch of the sequences of questions and of passages, both in the order of `PairBatch`, with a key for each."""
    num_pairs = len(queries[1]) - len(second_of)
    first = (queries[0][: int(queries[1][:num_pairs].sum())], queries[1][:num_pairs])
    return PairBatch(
        step=step,
        first_pair=first_pair,
        global_pairs=global_pairs,
        kind=kind,
        query_ids=queries[0],
        query_lengths=queries[1],
        passage_ids=passages[0],
        passage_lengths=passages[1],
        query_keys=hash_sequences(*first),
        passage_keys=hash_sequences(*passages),
        positives=positives,
        second_of=second_of,
    )


def hash_sequences(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) int64, one per sequence, equal where the tokens are equal and (but for 1 in 2^64) only there."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    longest = int(lengths.max(initial=0))
    places = np.arange(len(ids)) - np.repeat(starts, lengths)
    terms = mix(mix(np.arange(1, longest + 1))[places] + ids.astype(np.uint64))
    cumulated = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return (cumulated[starts + lengths] - cumulated[starts]).view(np.int64)


def pad(ids: np.ndarray, lengths: np.ndarray, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of (N,) lengths as a rectangle: ids and mask, both (N, longest) int64."""
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, padding, np.int64)
    padded[mask] = ids
    return padded, mask.astype(np.int64)


def _take(
    store: TokenStore, spec: BatchSpec, side: TextField, languages: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if (languages == languages[0]).all():
        return store.take(spec.source, side, str(languages[0]), rows, spec.split)
    taken = [
        store.take(spec.source, side, str(language), rows[place : place + 1], spec.split)
        for place, language in enumerate(languages)
    ]
    return np.concatenate([ids for ids, _ in taken]), np.concatenate([lengths for _, lengths in taken])


def _take_negatives(
    store: TokenStore, spec: BatchSpec, languages: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    taken = [
        store.take_negatives(spec.source, str(language), rows[place : place + 1], spec.hard_negatives, spec.split)
        for place, language in enumerate(languages)
    ]
    return np.concatenate([ids for ids, _ in taken]), np.concatenate([lengths for _, lengths in taken])


def dataclass_to_arrow(batch: DataclassInstance) -> pa.Table:
    """A batch as a table of one row."""
    return pa.table({name: pa.array([getattr(batch, name)]) for name in type(batch).__dataclass_fields__})


def dataclass_from_arrow(table: pa.Table, of: type[DataclassInstance] = PairBatch) -> Any:
    """The batch of a table of one row."""
    values = {}
    for name in of.__dataclass_fields__:
        scalar = table.column(name)[0]
        is_list = isinstance(scalar, pa.ListScalar)
        values[name] = scalar.values.to_numpy(zero_copy_only=True) if is_list else scalar.as_py()
    return of(**values)
