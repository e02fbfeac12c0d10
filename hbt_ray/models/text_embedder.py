"""Embed texts with an encoder and its prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import is_packed, packed_vectors
from hbt_ray.models.padding import padded_vectors


class TextEmbedder:
    """Embeds queries and passages.

    Texts are sorted by length and encoded in batches: without padding by a packed encoder, padded to the longest of
    the batch by any other.

    Args:
        encoder: is set to evaluation mode.
        query_prefix: prepended to queries. None: the prefix saved with the model.
        passage_prefix: prepended to passages. None: the prefix saved with the model.
        bf16: compute in bfloat16.
        batch_tokens: maximum tokens of a batch, padding included, unless a single text is longer.
        dimensions: D. Vectors are truncated to it and normalized again. None: all.

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
        """Return (N, D) float32 unit vectors."""
        return self._embed([self.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, D) float32 unit vectors."""
        return self._embed([self.passage_prefix + text for text in texts])

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimensions or self.encoder.get_embedding_dimension() or 1), np.float32)
        encoded = self._token_ids(texts)
        lengths = np.array([len(ids) for ids in encoded])
        order = np.argsort(-lengths, kind="stable")
        found = []
        # One autocast region for all batches, so that weights are cast once.
        with torch.autocast(self.encoder.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            for batch in _batches(lengths[order], self.batch_tokens, packed=is_packed(self.encoder)):
                texts_of_batch = order[batch]
                flat = np.concatenate([np.asarray(encoded[index]) for index in texts_of_batch])
                batch_lengths = lengths[texts_of_batch]
                if is_packed(self.encoder):
                    found.append(packed_vectors(self.encoder, flat, batch_lengths).float())
                else:
                    found.append(padded_vectors(self.encoder, flat, batch_lengths).float())
        vectors = nn.functional.normalize(torch.cat(found)[:, : self.dimensions], dim=-1).cpu().numpy()
        in_order = np.empty_like(vectors)
        in_order[order] = vectors
        return in_order

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.encoder.tokenizer
        encoded = tokenizer(list(texts), truncation=True, max_length=self.encoder.max_seq_length)["input_ids"]
        return [list(ids) for ids in encoded]


class TokenIdEmbedder(TextEmbedder):
    """Embeds texts such as "5 17 8": token ids, prefix included, as `build_validation_benchmark` writes them."""

    def __init__(self, encoder: SentenceTransformer, *, bf16: bool = False, dimensions: int | None = None) -> None:
        super().__init__(encoder, query_prefix="", passage_prefix="", bf16=bf16, dimensions=dimensions)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(number) for number in text.split()] for text in texts]


def _batches(lengths: np.ndarray, max_tokens: int, *, packed: bool) -> Iterator[slice]:
    """Cut sequences in descending order of length into batches of at most `max_tokens`, padding included.

    A batch has at least one sequence.
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        tokens_before = ends[start] - lengths[start]
        if packed:
            fitting = int(np.searchsorted(ends, tokens_before + max_tokens, "right"))
        else:
            fitting = int(start + max_tokens // lengths[start])
        end = max(start + 1, min(fitting, len(lengths)))
        yield slice(start, end)
        start = end
