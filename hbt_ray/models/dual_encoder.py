"""The dual encoder in training: one encoder for the queries and passages of a batch, in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.models.deterministic_dropout import DropoutKey, key_dropout
from hbt_ray.models.packed_attention import is_packed, packed_vectors, word_embeddings
from hbt_ray.models.padding import padded_vectors
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.utils.counter_rng import Salt


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Pairs of a batch that are encoded together."""

    start: int  # index of the first pair on this rank
    end: int  # index after the last pair
    chunk: int  # index of its chunk in the global batch
    number: int  # index in its chunk


class DualEncoder(nn.Module):
    """Encodes the pairs of a batch in micro-batches, as GradCache does (Gao et al. 2021, arXiv 2101.06983).

    1. The *global* batch is cut into chunks of `chunk_pairs` pairs; a rank has whole chunks.
    2. A chunk of more than `max_tokens` tokens is cut into several micro-batches.
    3. Dropout of a micro-batch is a function of (seed, step, chunk, its index in the chunk).

    So the embeddings of a chunk do not depend on the rank that has it, and a micro-batch can be encoded twice with the
    same result.

    A packed encoder encodes the queries and passages of a micro-batch in one pass without padding. Its word embeddings
    are looked up once for all micro-batches, because each gradient of the table is as large as the table. Any other
    encoder encodes queries and passages separately, each padded to their longest.

    Legend: B pairs on this rank, K positives and N hard negatives per pair, S translated queries, D width.

    Args:
        encoder: encodes queries and passages.
        seed: of dropout.
        chunk_pairs: pairs of a chunk.
        bf16: compute in bfloat16.
        max_tokens: tokens of a micro-batch. A pair with more of them is a micro-batch by itself.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        *,
        seed: int,
        chunk_pairs: int,
        bf16: bool,
        max_tokens: int = 2**30,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.seed = seed
        self.chunk_pairs = chunk_pairs
        self.max_tokens = max_tokens
        self.bf16 = bf16
        self._dropout = key_dropout(encoder) if is_packed(encoder) else DropoutKey()

    def forward(self, batch: PairBatch, micro_batches: Sequence[MicroBatch] | None = None) -> tuple[Tensor, Tensor]:
        """Encode a batch, or only some of its micro-batches.

        Returns:
            Float32 unit vectors of the queries (B + S, D), translations last, and of the passages (B * (K + N), D),
            negatives last. B counts the pairs of `micro_batches`.
        """
        micro_batches = self.micro_batches(batch) if micro_batches is None else micro_batches
        encode = self._packed if is_packed(self.encoder) else self._padded
        queries, translations, positives, negatives = [], [], [], []
        # One autocast region for all micro-batches, so that weights are cast once.
        with torch.autocast(self.encoder.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            for micro_batch, (of_queries, of_passages) in zip(micro_batches, encode(batch, micro_batches), strict=True):
                num_pairs = micro_batch.end - micro_batch.start
                num_positives = num_pairs * batch.positives
                queries.append(of_queries[:num_pairs])
                translations.append(of_queries[num_pairs:])
                positives.append(of_passages[:num_positives])
                negatives.append(of_passages[num_positives:])
        sides = queries + translations, positives + negatives
        unit = [nn.functional.normalize(torch.cat(side).float(), dim=-1) for side in sides]
        return unit[0], unit[1]

    def micro_batches(self, batch: PairBatch) -> list[MicroBatch]:
        """Cut a batch into chunks, and chunks with too many tokens into several micro-batches."""
        positives, negatives = np.split(batch.passage_lengths, [batch.num_pairs * batch.positives])
        tokens_per_pair = batch.query_lengths[: batch.num_pairs] + positives.reshape(batch.num_pairs, -1).sum(1)
        tokens_per_pair = tokens_per_pair + negatives.reshape(batch.num_pairs, -1).sum(1)
        tokens_per_pair[batch.translation_of] += batch.query_lengths[batch.num_pairs :]
        micro_batches: list[MicroBatch] = []
        tokens = 0
        for pair, pair_tokens in enumerate(tokens_per_pair.tolist()):
            chunk = (batch.first_pair + pair) // self.chunk_pairs
            last = micro_batches[-1] if micro_batches else None
            if last is not None and last.chunk == chunk and tokens + pair_tokens <= self.max_tokens:
                micro_batches[-1] = MicroBatch(last.start, pair + 1, chunk, last.number)
                tokens += pair_tokens
            else:
                number = last.number + 1 if last is not None and last.chunk == chunk else 0
                micro_batches.append(MicroBatch(pair, pair + 1, chunk, number))
                tokens = pair_tokens
        return micro_batches

    def _packed(self, batch: PairBatch, micro_batches: Sequence[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        texts = []
        for micro_batch in micro_batches:
            both = _queries(batch, micro_batch), _passages(batch, micro_batch)
            texts.append((np.concatenate([ids for ids, _ in both]), np.concatenate([lengths for _, lengths in both])))
        words = word_embeddings(self.encoder, np.concatenate([ids for ids, _ in texts]))
        words_per_micro_batch = words.split([len(ids) for ids, _ in texts])
        for micro_batch, (ids, lengths), embeddings in zip(micro_batches, texts, words_per_micro_batch, strict=True):
            self._set_key(batch, micro_batch)
            vectors = packed_vectors(self.encoder, ids, lengths, embeddings)
            num_queries = len(query_rows(batch, micro_batch))
            yield vectors[:num_queries], vectors[num_queries:]

    def _padded(self, batch: PairBatch, micro_batches: Sequence[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for micro_batch in micro_batches:
            self._set_key(batch, micro_batch, Salt.QUERY)
            queries = padded_vectors(self.encoder, *_queries(batch, micro_batch))
            self._set_key(batch, micro_batch, Salt.PASSAGE)
            passages = padded_vectors(self.encoder, *_passages(batch, micro_batch))
            yield queries, passages

    def _set_key(self, batch: PairBatch, micro_batch: MicroBatch, *side: Salt) -> None:
        if self.training:
            parts = (batch.step, micro_batch.chunk, micro_batch.number)
            self._dropout.set(self.encoder.device, self.seed, Salt.DROPOUT, *side, *parts)


def _queries(batch: PairBatch, micro_batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    return _select(batch.query_ids, batch.query_lengths, query_rows(batch, micro_batch))


def _passages(batch: PairBatch, micro_batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    return _select(batch.passage_ids, batch.passage_lengths, passage_rows(batch, micro_batch))


def query_rows(batch: PairBatch, micro_batch: MicroBatch) -> np.ndarray:
    """Return the indices of a micro-batch's queries, then of their translations, among those of the rank."""
    of_pairs = (batch.translation_of >= micro_batch.start) & (batch.translation_of < micro_batch.end)
    translations = batch.num_pairs + np.flatnonzero(of_pairs)
    return np.concatenate([np.arange(micro_batch.start, micro_batch.end), translations])


def passage_rows(batch: PairBatch, micro_batch: MicroBatch) -> np.ndarray:
    """Return the indices of a micro-batch's positives, then of its negatives, among the passages of the rank."""
    positives = np.arange(micro_batch.start * batch.positives, micro_batch.end * batch.positives)
    negatives = np.arange(micro_batch.start * batch.num_negatives, micro_batch.end * batch.num_negatives)
    return np.concatenate([positives, batch.num_pairs * batch.positives + negatives])


def _select(ids: np.ndarray, lengths: np.ndarray, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return some of the concatenated sequences, concatenated, and their lengths."""
    ends = np.cumsum(lengths)
    parts = [ids[ends[s] - lengths[s] : ends[s]] for s in sequences]
    return np.concatenate(parts), lengths[sequences]
