"""Texts to unit vectors, with a model and the prefixes it brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import is_packed, packed_vectors
from hbt_ray.sampling.collate import pad


class TextEmbedder:
    """Embeds questions and passages with a model and the prefixes it brings.

    Texts are sorted by length and pass the encoder some at a time: an encoder that `is_packed` takes them without
    padding, any other padded to the longest of their few.

    Args:
        query_prefix, passage_prefix: None: what the model brings.
        dimensions: D: the first values of vectors, brought to unit length again; None: all.

    Raises:
        ConfigError: the model's vectors have fewer dimensions.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        bf16: bool = False,
        batch_tokens: int = 4096,
        dimensions: int | None = None,
    ) -> None:
        self.encoder = encoder.eval()
        prompts = encoder.prompts or {}
        self.query_prefix = prompts.get("query") or "" if query_prefix is None else query_prefix
        self.passage_prefix = (
            prompts.get("document") or prompts.get("passage") or "" if passage_prefix is None else passage_prefix
        )
        self.bf16 = bf16
        self.batch_tokens = batch_tokens
        self.dimensions = dimensions
        width = encoder.get_embedding_dimension()
        if dimensions is not None and width is not None and dimensions > width:
            raise ConfigError(
                f"dimensions {dimensions} are more than the {width} of the model's vectors; write {width} or fewer"
            )

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self._embed([self.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self._embed([self.passage_prefix + text for text in texts])

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimensions or self.encoder.get_embedding_dimension() or 1), np.float32)
        encoded = self._token_ids(texts)
        lengths = np.array([len(ids) for ids in encoded])
        order = np.argsort(-lengths, kind="stable")
        found = []
        # Once for all, so that the weights are cast once.
        with torch.autocast(self.encoder.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            for chunk in _chunks(lengths[order], self.batch_tokens, packed=is_packed(self.encoder)):
                own = order[chunk]
                flat = np.concatenate([np.asarray(encoded[place]) for place in own])
                found.append(self._vectors(flat, lengths[own]).float())
        vectors = nn.functional.normalize(torch.cat(found)[:, : self.dimensions], dim=-1).cpu().numpy()
        in_order = np.empty_like(vectors)
        in_order[order] = vectors
        return in_order

    def _vectors(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        if is_packed(self.encoder):
            return packed_vectors(self.encoder, ids, lengths)
        padded, mask = pad(ids, lengths, int(self.encoder.tokenizer.pad_token_id or 0))
        features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
        vectors: Tensor = self.encoder({name: values.to(self.encoder.device) for name, values in features.items()})[
            "sentence_embedding"
        ]
        return vectors

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.encoder.tokenizer
        encoded = tokenizer(list(texts), truncation=True, max_length=self.encoder.max_seq_length)["input_ids"]
        return [list(ids) for ids in encoded]


class TokenIdEmbedder(TextEmbedder):
    """Embeds texts of which the token ids are written, prefix included, as `build_validation_benchmark` does."""

    def __init__(self, encoder: SentenceTransformer, *, bf16: bool = False, dimensions: int | None = None) -> None:
        super().__init__(encoder, query_prefix="", passage_prefix="", bf16=bf16, dimensions=dimensions)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(number) for number in text.split()] for text in texts]


def _chunks(lengths: np.ndarray, most_tokens: int, *, packed: bool) -> Iterator[slice]:
    """Runs of sequences, the longest first, that have no more tokens together, padding included; one at least."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        fitting = (
            np.searchsorted(ends, before + most_tokens, "right") if packed else start + most_tokens // lengths[start]
        )
        end = max(start + 1, min(int(fitting), len(lengths)))
        yield slice(start, end)
        start = end
