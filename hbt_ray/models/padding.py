"""Encode token sequences padded to a rectangle, for encoders without packed attention."""

from __future__ import annotations

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor


def pad(ids: np.ndarray, lengths: np.ndarray, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad concatenated sequences of (N,) lengths to a rectangle: ids and mask, both (N, longest) int64."""
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, padding, np.int64)
    padded[mask] = ids
    return padded, mask.astype(np.int64)


def padded_vectors(encoder: SentenceTransformer, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Encode sequences padded to the longest of them; `packed_vectors` is the equivalent without padding.

    Args:
        encoder: any encoder.
        ids: (tokens,) of all sequences, concatenated.
        lengths: (N,) tokens of each.

    Returns:
        (N, D) embeddings.
    """
    padded, mask = pad(ids, lengths, int(encoder.tokenizer.pad_token_id or 0))
    features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
    vectors: Tensor = encoder({name: values.to(encoder.device) for name, values in features.items()})[
        "sentence_embedding"
    ]
    return vectors
