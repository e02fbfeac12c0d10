"""Embed texts with an encoder and its prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import is_packed, packed_vectors
from hbt_ray.models.padding import padded_vectors
from hbt_ray.models.saved_settings import excludes_prompt, saved_prompt, similarity_of
from hbt_ray.utils.progress import Stage, stage

Task = Literal["query", "document"]
_SIDES = {"query": "queries", "document": "passages"}

_CHARS_PER_TOKEN = 2  # fewer than in most languages, so that a batch is rather too small


class TextEmbedder:
    """Embeds queries and passages as the model's `encode_query` and `encode_document` do.

    A packed encoder embeds texts in batches of similar length without padding. For any other the library's methods are
    called, so that whatever its modules do is done.

    Args:
        encoder: is set to evaluation mode.
        query_prefix: prepended to queries. None: the prompt saved with the model.
        passage_prefix: prepended to passages. None: the prompt saved with the model.
        bf16: compute in bfloat16.
        batch_tokens: maximum tokens of a batch, padding included, unless a single text is longer. For an encoder that
            is not packed, tokens are estimated.
        dimensions: D. Vectors are truncated to it. None: the dimensions saved with the model, or all.

    Attributes:
        similarity: "cosine", and vectors have unit length; or "dot", and they have the model's length.

    Raises:
        ConfigError: the model's vectors have fewer dimensions, or are compared by neither.
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
        self.query_prefix = saved_prompt(encoder, "query") if query_prefix is None else query_prefix
        self.passage_prefix = saved_prompt(encoder, "document") if passage_prefix is None else passage_prefix
        self.bf16 = bf16
        self.batch_tokens = batch_tokens
        self.dimensions = encoder.truncate_dim if dimensions is None else dimensions
        self.similarity = similarity_of(encoder, self.dimensions)
        width = encoder.get_embedding_dimension()
        if dimensions is not None and width is not None and dimensions > width:
            raise ConfigError(
                f"dimensions {dimensions} are more than the {width} of the model's vectors; write {width} or fewer"
            )

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, D) float32 vectors."""
        return self._embed(texts, "query")

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, D) float32 vectors."""
        return self._embed(texts, "document")

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str], task: Task) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimensions or self.encoder.get_embedding_dimension() or 1), np.float32)
        # One autocast region for all batches, so that weights are cast once.
        with (
            torch.autocast(self.encoder.device.type, dtype=torch.bfloat16, enabled=self.bf16),
            stage(f"embedding {_SIDES[task]}", len(texts), "texts") as progress,
        ):
            vectors = self._vectors(texts, task, progress)[:, : self.dimensions]
        if self.similarity == "cosine":
            vectors = nn.functional.normalize(vectors, dim=-1)
        return np.asarray(vectors.cpu().numpy())

    def _vectors(self, texts: Sequence[str], task: Task, progress: Stage) -> Tensor:
        """Return (N, D) float32 vectors as the model's modules return them."""
        prefix = self.query_prefix if task == "query" else self.passage_prefix
        if is_packed(self.encoder) and not (prefix and excludes_prompt(self.encoder)):
            tokenizer = self.encoder.tokenizer
            prefixed = [prefix + text for text in texts]
            encoded = tokenizer(prefixed, truncation=True, max_length=self.encoder.max_seq_length)["input_ids"]
            return self._of_token_ids([list(ids) for ids in encoded], progress)
        encode = self.encoder.encode_query if task == "query" else self.encoder.encode_document
        max_tokens = min(self.encoder.max_seq_length or self.batch_tokens, self.batch_tokens)
        lengths = np.array([min(len(prefix + text) // _CHARS_PER_TOKEN + 1, max_tokens) for text in texts])
        order = np.argsort(-lengths, kind="stable")
        found = []
        for batch in _batches(lengths[order], self.batch_tokens, packed=False):
            vectors = encode(
                [texts[index] for index in order[batch]],
                prompt=prefix,
                batch_size=batch.stop - batch.start,
                truncate_dim=self.dimensions,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
            found.append(vectors.float())
            progress.move_to(batch.stop)
        return _in_order(found, order)

    def _of_token_ids(self, encoded: Sequence[Sequence[int]], progress: Stage) -> Tensor:
        """Return (N, D) float32 vectors of texts given as token ids."""
        lengths = np.array([len(ids) for ids in encoded])
        order = np.argsort(-lengths, kind="stable")
        packed = is_packed(self.encoder)
        vectors_of = packed_vectors if packed else padded_vectors
        found = []
        for batch in _batches(lengths[order], self.batch_tokens, packed=packed):
            texts_of_batch = order[batch]
            flat = np.concatenate([np.asarray(encoded[index]) for index in texts_of_batch])
            found.append(vectors_of(self.encoder, flat, lengths[texts_of_batch]).float())
            progress.move_to(batch.stop)
        return _in_order(found, order)


class TokenIdEmbedder(TextEmbedder):
    """Embeds texts such as "5 17 8": token ids, prefix included, as `build_validation_benchmark` writes them."""

    def __init__(self, encoder: SentenceTransformer, *, bf16: bool = False, dimensions: int | None = None) -> None:
        super().__init__(encoder, query_prefix="", passage_prefix="", bf16=bf16, dimensions=dimensions)

    def _vectors(self, texts: Sequence[str], task: Task, progress: Stage) -> Tensor:
        return self._of_token_ids([[int(number) for number in text.split()] for text in texts], progress)


def _in_order(found: Sequence[Tensor], order: np.ndarray) -> Tensor:
    """Concatenate the vectors of batches; row `order[n]` of the result is row n of them."""
    vectors = torch.cat(list(found))
    in_order = torch.empty_like(vectors)
    in_order[torch.from_numpy(order).to(vectors.device)] = vectors
    return in_order


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
