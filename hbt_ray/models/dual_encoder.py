"""The dual encoder as it is trained: a batch's questions and passages through one encoder, some pairs at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.models.deterministic_dropout import DropoutKey, key_dropout
from hbt_ray.models.packed_attention import is_packed, packed_vectors, word_embeddings
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.sampling.collate import pad
from hbt_ray.utils.counter_rng import Salt


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Pairs of a batch that pass the encoder together."""

    start: int  # the first on this rank
    end: int  # behind the last
    chunk: int  # of the global batch
    number: int  # in its chunk


class DualEncoder(nn.Module):
    """Encodes the pairs of a batch, some pairs at a time.

    Pairs pass the encoder in chunks that lie on a fixed grid over the *global* batch, a chunk of many tokens in several
    pieces; dropout is drawn anew for each from (seed, step, chunk, piece). So a chunk's vectors do not depend on which
    rank holds it.

    An encoder that `is_packed` takes a piece's questions and passages in one pass and without padding, and its word
    embeddings are looked up once for all pieces: the gradient of the table is as large as the table each time. Any
    other takes questions and passages apart, each padded to their longest.

    Legend: B pairs on this rank, K positives and N hard negatives per pair, S questions in a second language, D width.
    """

    def __init__(
        self, encoder: SentenceTransformer, *, seed: int, chunk_pairs: int, bf16: bool, piece_tokens: int = 2**30
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.seed = seed
        self.chunk_pairs = chunk_pairs
        self.piece_tokens = piece_tokens
        self.bf16 = bf16
        self._dropout = key_dropout(encoder) if is_packed(encoder) else DropoutKey()
        self._padding = int(encoder.tokenizer.pad_token_id or 0)

    def forward(self, batch: PairBatch, pieces: Sequence[MicroBatch] | None = None) -> tuple[Tensor, Tensor]:
        """Unit vectors of the questions (B + S, D) and of the passages (B * (K + N), D), float32; B of `pieces` alone.

        The questions stand before all in a second language, the positives before all negatives.
        """
        pieces = self.pieces(batch) if pieces is None else pieces
        encode = self._packed if is_packed(self.encoder) else self._padded
        queries, seconds, positives, negatives = [], [], [], []
        # Once for all pieces, so that the weights are cast once.
        with torch.autocast(self.encoder.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            for piece, (asked, answered) in zip(pieces, encode(batch, pieces), strict=True):
                num_pairs = piece.end - piece.start
                num_positives = num_pairs * batch.positives
                queries.append(asked[:num_pairs])
                seconds.append(asked[num_pairs:])
                positives.append(answered[:num_positives])
                negatives.append(answered[num_positives:])
        sides = queries + seconds, positives + negatives
        unit = [nn.functional.normalize(torch.cat(side).float(), dim=-1) for side in sides]
        return unit[0], unit[1]

    def pieces(self, batch: PairBatch) -> list[MicroBatch]:
        """What passes the encoder together: chunks, and parts of those that have more than `piece_tokens` tokens."""
        positives, negatives = np.split(batch.passage_lengths, [batch.num_pairs * batch.positives])
        per_pair = batch.query_lengths[: batch.num_pairs] + positives.reshape(batch.num_pairs, -1).sum(1)
        per_pair = per_pair + negatives.reshape(batch.num_pairs, -1).sum(1)
        per_pair[batch.second_of] += batch.query_lengths[batch.num_pairs :]
        pieces: list[MicroBatch] = []
        tokens = 0
        for pair, own in enumerate(per_pair.tolist()):
            chunk = (batch.first_pair + pair) // self.chunk_pairs
            last = pieces[-1] if pieces else None
            if last is not None and last.chunk == chunk and tokens + own <= self.piece_tokens:
                pieces[-1] = MicroBatch(last.start, pair + 1, chunk, last.number)
                tokens += own
            else:
                number = last.number + 1 if last is not None and last.chunk == chunk else 0
                pieces.append(MicroBatch(pair, pair + 1, chunk, number))
                tokens = own
        return pieces

    def _packed(self, batch: PairBatch, pieces: Sequence[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        texts = []
        for piece in pieces:
            both = _questions(batch, piece), _passages(batch, piece)
            texts.append((np.concatenate([ids for ids, _ in both]), np.concatenate([lengths for _, lengths in both])))
        words = word_embeddings(self.encoder, np.concatenate([ids for ids, _ in texts]))
        of_pieces = words.split([len(ids) for ids, _ in texts])
        for piece, (ids, lengths), own_words in zip(pieces, texts, of_pieces, strict=True):
            self._key(batch, piece)
            vectors = packed_vectors(self.encoder, ids, lengths, own_words)
            num_questions = len(query_rows(batch, piece))
            yield vectors[:num_questions], vectors[num_questions:]

    def _padded(self, batch: PairBatch, pieces: Sequence[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for piece in pieces:
            vectors = []
            sides = (Salt.QUERY, _questions(batch, piece)), (Salt.PASSAGE, _passages(batch, piece))
            for side, (ids, lengths) in sides:
                padded, mask = pad(ids, lengths, self._padding)
                self._key(batch, piece, side)
                features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
                features = {name: values.to(self.encoder.device) for name, values in features.items()}
                vectors.append(self.encoder(features)["sentence_embedding"])
            yield vectors[0], vectors[1]

    def _key(self, batch: PairBatch, piece: MicroBatch, *side: Salt) -> None:
        if self.training:
            place = (batch.step, piece.chunk, piece.number)
            self._dropout.set(self.encoder.device, self.seed, Salt.DROPOUT, *side, *place)


def _questions(batch: PairBatch, piece: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    return _select(batch.query_ids, batch.query_lengths, query_rows(batch, piece))


def _passages(batch: PairBatch, piece: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    return _select(batch.passage_ids, batch.passage_lengths, passage_rows(batch, piece))


def query_rows(batch: PairBatch, piece: MicroBatch) -> np.ndarray:
    """Rows of a piece's questions among its rank's: the questions, then those in a second language."""
    seconds = np.flatnonzero((batch.second_of >= piece.start) & (batch.second_of < piece.end))
    return np.concatenate([np.arange(piece.start, piece.end), batch.num_pairs + seconds])


def passage_rows(batch: PairBatch, piece: MicroBatch) -> np.ndarray:
    """Rows of a piece's passages among its rank's: the positives, then the negatives."""
    positives = np.arange(piece.start * batch.positives, piece.end * batch.positives)
    negatives = np.arange(piece.start * batch.num_negatives, piece.end * batch.num_negatives)
    return np.concatenate([positives, batch.num_pairs * batch.positives + negatives])


def _select(ids: np.ndarray, lengths: np.ndarray, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the sequences that stand one after the other in `ids`."""
    ends = np.cumsum(lengths)
    parts = [ids[ends[s] - lengths[s] : ends[s]] for s in sequences]
    return np.concatenate(parts), lengths[sequences]
