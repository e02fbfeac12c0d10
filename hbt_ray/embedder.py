"""Texts to unit vectors, with a model and the prefixes it brings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from hbt_ray.batches import pad


class TextEmbedder:
    """Embeds questions and passages with a model and the prefixes it brings.

    Texts are sorted by length and padded to the longest of their few, so that little padding is computed.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        bf16: bool = False,
        batch_tokens: int = 4096,
    ) -> None:
        self.encoder = encoder.eval()
        prompts = encoder.prompts or {}
        self.query_prefix = prompts.get("query") or "" if query_prefix is None else query_prefix
        self.passage_prefix = (
            prompts.get("document") or prompts.get("passage") or "" if passage_prefix is None else passage_prefix
        )
        self.bf16 = bf16
        self.batch_tokens = batch_tokens

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self._embed([self.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self._embed([self.passage_prefix + text for text in texts])

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.encoder.get_embedding_dimension() or 1), np.float32)
        device = self.encoder.device
        encoded = self._token_ids(texts)
        lengths = np.array([len(ids) for ids in encoded])
        order = np.argsort(-lengths, kind="stable")
        vectors: np.ndarray | None = None
        start = 0
        while start < len(order):
            chunk = order[start : start + max(1, self.batch_tokens // int(lengths[order[start]]))]
            start += len(chunk)
            flat = np.concatenate([np.asarray(encoded[place]) for place in chunk])
            padded, mask = pad(flat, lengths[chunk], int(self.encoder.tokenizer.pad_token_id or 0))
            features = {
                "input_ids": torch.from_numpy(padded).to(device),
                "attention_mask": torch.from_numpy(mask).to(device),
            }
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
                embedded = self.encoder(features)["sentence_embedding"]
            embedded = nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()
            if vectors is None:
                vectors = np.empty((len(texts), embedded.shape[1]), np.float32)
            vectors[chunk] = embedded
        assert vectors is not None
        return vectors

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.encoder.tokenizer
        encoded = tokenizer(list(texts), truncation=True, max_length=self.encoder.max_seq_length)["input_ids"]
        return [list(ids) for ids in encoded]


class TokenEmbedder(TextEmbedder):
    """Embeds texts of which the token ids are written, prefix included, as `held_out` does."""

    def __init__(self, encoder: SentenceTransformer, *, bf16: bool = False) -> None:
        super().__init__(encoder, query_prefix="", passage_prefix="", bf16=bf16)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(number) for number in text.split()] for text in texts]
