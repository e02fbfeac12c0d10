"""A batch of question-passage pairs, as token ids without padding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of one global batch that one rank trains on, as token ids without padding.

    Legend: B pairs on this rank, K positives and N negatives per pair. S of the questions also have a translation.
    Sequences are concatenated; `*_lengths` has the length of each.
    """

    step: int  # the batch's number in the sampler's order
    first_pair: int  # index of the first of the B pairs in the global batch
    global_pairs: int  # G
    kind: str  # "monolingual", "cross-lingual", "mixed" or "one-to-k"
    query_ids: np.ndarray  # (sum of query_lengths,) int32
    query_lengths: np.ndarray  # (B + S,) int32: the B questions, then the S translations
    passage_ids: np.ndarray  # (sum of passage_lengths,) int32
    passage_lengths: np.ndarray  # (B * (K + N),) int32: the K positives of pair 0, of pair 1, ..., then its N negatives
    query_keys: np.ndarray  # (B,) int64, equal where the tokens are equal
    passage_keys: np.ndarray  # (B * (K + N),) int64, equal where the tokens are equal
    positives: int = 1  # K
    # Equal for questions, and passages that answer them, whose items have texts in common in any language; 0: none.
    query_components: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (B,) int64
    passage_components: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (B * (K + N),) int64
    # (S,) int32, ascending: the index of the question that each is a translation of
    translation_of: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    # (R,) int32, ascending: the ids that occur in the global batch; empty: not known
    global_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.query_lengths) - len(self.translation_of)

    @property
    def num_negatives(self) -> int:
        """N, the hard negatives of each pair."""
        return len(self.passage_lengths) // max(self.num_pairs, 1) - self.positives
