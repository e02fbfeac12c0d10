"""A batch's pairs as token ids: what the plan says, read from the store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hbt_ray.permutation import mix
from hbt_ray.plan import BatchSpec, rank_slice
from hbt_ray.records import Batch, Blocks
from hbt_ray.store import Side, TokenStore


def build_batch(spec: BatchSpec, store: TokenStore, rank: int = 0, num_ranks: int = 1, chunk_pairs: int = 1) -> Batch:
    """The slice of a global batch that one rank trains on. Any process can build any rank's.

    A rank may as well plan its own pairs alone, `plan.batch(step, rank_slice(...))`, and build all of those.
    """
    mine = rank_slice(len(spec.rows), num_ranks, rank, chunk_pairs)
    rows = spec.rows[mine]
    query_ids, query_lengths = _take(store, spec, "question", spec.query_languages[mine], rows)
    passage_ids, passage_lengths = _take(store, spec, "passage", spec.passage_languages[mine], rows)
    if spec.hard_negatives:
        ids, lengths = _take_negatives(store, spec, spec.passage_languages[mine], rows)
        passage_ids = np.concatenate([passage_ids, ids])
        passage_lengths = np.concatenate([passage_lengths, lengths])
    return Batch(
        step=spec.step,
        first_pair=spec.first_pair + mine.start,
        global_pairs=spec.global_pairs,
        kind=spec.kind,
        query_ids=query_ids,
        query_lengths=query_lengths,
        passage_ids=passage_ids,
        passage_lengths=passage_lengths,
        query_keys=sequence_keys(query_ids, query_lengths),
        passage_keys=sequence_keys(passage_ids, passage_lengths),
    )


def sequence_keys(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
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
    store: TokenStore, spec: BatchSpec, side: Side, languages: np.ndarray, rows: np.ndarray
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


def to_arrow(batch: Batch | Blocks) -> pa.Table:
    """A batch as a table of one row."""
    return pa.table({name: pa.array([getattr(batch, name)]) for name in type(batch).__dataclass_fields__})


def from_arrow(table: pa.Table, of: type[Batch | Blocks] = Batch) -> Any:
    """The batch of a table of one row."""
    values = {}
    for name in of.__dataclass_fields__:
        scalar = table.column(name)[0]
        is_list = isinstance(scalar, pa.ListScalar)
        values[name] = scalar.values.to_numpy(zero_copy_only=True) if is_list else scalar.as_py()
    return of(**values)
