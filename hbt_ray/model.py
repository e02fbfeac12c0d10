"""The dual encoder: one sentence-transformers model for questions and passages, fed with token ids.

Every encoder is held as a `SentenceTransformer`, whose library loads and saves it with whatever pooling
and dense layers it has. What is trained is therefore what `SentenceTransformer(path)` later loads.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import is_sentence_transformer_model
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from hbt_ray.batches import pad
from hbt_ray.config import ModelConfig, TextConfig
from hbt_ray.errors import ConfigError
from hbt_ray.permutation import key_of
from hbt_ray.records import Batch


def load_encoder(model: ModelConfig, text: TextConfig, path: str | Path, *, device: str = "cpu") -> SentenceTransformer:
    """The encoder to train, with the run's own dropout, lengths and prefixes.

    Args:
        path: `model.path`, or the folder of an encoder that `small_encoder` made.

    Raises:
        ConfigError: it cannot be loaded.
    """
    attention = model.attention
    if attention == "auto":
        attention = "eager" if device == "cpu" else "sdpa"
    encoder = open_encoder(
        str(path), model.pooling, device, attention=attention, trust_remote_code=model.trust_remote_code
    )
    if model.dropout is not None:
        set_dropout(encoder, model.dropout)
    encoder.max_seq_length = max(text.max_query_tokens, text.max_passage_tokens)
    encoder.prompts = {"query": text.query_prefix, "document": text.passage_prefix}
    return encoder


def small_encoder(
    model: ModelConfig, text: TextConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> SentenceTransformer:
    """An untrained encoder of the configured size; its weights follow from the seed."""
    small = model.small
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=small.width,
        num_hidden_layers=small.layers,
        num_attention_heads=small.heads,
        intermediate_size=4 * small.width,
        max_position_embeddings=max(text.max_query_tokens, text.max_passage_tokens),
        pad_token_id=tokenizer.pad_token_id,
    )
    with without_progress_bars(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(key_of(seed, "weights") % 2**63)
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        modules = [Transformer(folder), Pooling(small.width, model.pooling), Normalize()]
        encoder = SentenceTransformer(modules=modules, device="cpu")
    encoder.max_seq_length = config.max_position_embeddings
    encoder.prompts = {"query": text.query_prefix, "document": text.passage_prefix}
    return encoder


def open_encoder(
    path: str,
    pooling: str = "mean",
    device: str = "cpu",
    *,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Any sentence-transformers or transformers model, ending in unit vectors.

    Raises:
        ConfigError: it cannot be loaded.
    """
    # Weights saved in half precision are trained and compared in full: autocast alone says where less is enough.
    # From safetensors alone: other files of weights are pickles, which can run code.
    model_kwargs: dict[str, Any] = {"attn_implementation": attention, "dtype": torch.float32, "use_safetensors": True}
    try:
        with without_progress_bars():
            if is_sentence_transformer_model(path):
                encoder = SentenceTransformer(
                    path, device=device, trust_remote_code=trust_remote_code, model_kwargs=model_kwargs
                )
            else:
                trust = {"trust_remote_code": trust_remote_code}
                transformer = Transformer(
                    path, model_kwargs=model_kwargs | trust, config_kwargs=trust, processor_kwargs=trust
                )
                modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
                encoder = SentenceTransformer(modules=modules, device=device)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the model {path!r} cannot be loaded ({reason}); write the folder of a saved sentence-transformers "
            "or transformers model, or the name of one on the hub"
        ) from None
    if not isinstance(encoder[-1], Normalize):
        encoder.append(Normalize())
    return encoder


def save_encoder(encoder: SentenceTransformer, folder: str | Path) -> None:
    """Writes a folder that `SentenceTransformer(folder)` loads."""
    with without_progress_bars():
        encoder.save(str(folder), create_model_card=False, safe_serialization=True)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without transformers' bars, which show for a second's work and break into a run's own line."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def set_dropout(encoder: nn.Module, probability: float) -> None:
    """Gives every dropout layer of an encoder this probability."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


class DualEncoder(nn.Module):
    """Encodes the pairs of a batch, some pairs at a time.

    Pairs pass the encoder in chunks that lie on a fixed grid over the *global* batch, and dropout is drawn
    anew for each chunk from (seed, step, chunk). So a chunk's vectors do not depend on which rank holds it.

    Legend: B pairs on this rank, N hard negatives per pair, D width.
    """

    def __init__(self, encoder: SentenceTransformer, *, seed: int, chunk_pairs: int, bf16: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.seed = seed
        self.chunk_pairs = chunk_pairs
        self.bf16 = bf16
        self._padding = int(encoder.tokenizer.pad_token_id or 0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors of the questions (B, D) and of the passages (B * (1 + N), D), float32."""
        pairs, negatives = batch.num_pairs, batch.num_negatives
        queries, positives, hard = [], [], []
        for start, end, chunk in self._chunks(batch):
            own = np.arange(start, end)
            queries.append(self._encode(batch, "query", own, (batch.step, chunk)))
            own_negatives = pairs + np.arange(start * negatives, end * negatives)
            passages = self._encode(batch, "passage", np.concatenate([own, own_negatives]), (batch.step, chunk))
            positives.append(passages[: end - start])
            hard.append(passages[end - start :])
        return torch.cat(queries), torch.cat(positives + hard)

    def _chunks(self, batch: Batch) -> list[tuple[int, int, int]]:
        """(first pair, last pair + 1, chunk's number in the global batch) of each chunk on this rank."""
        numbers = (batch.first_pair + np.arange(batch.num_pairs)) // self.chunk_pairs
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = [*starts[1:].tolist(), batch.num_pairs]
        return list(zip(starts.tolist(), ends, numbers[starts].tolist(), strict=True))

    def _encode(self, batch: Batch, side: str, sequences: np.ndarray, place: tuple[int, int]) -> Tensor:
        ids, lengths = (
            (batch.query_ids, batch.query_lengths) if side == "query" else (batch.passage_ids, batch.passage_lengths)
        )
        padded, mask = pad(*_select(ids, lengths, sequences), self._padding)
        device = self.encoder.device
        features = {
            "input_ids": torch.from_numpy(padded).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }
        if self.training:
            _generator_of(device).manual_seed(key_of(self.seed, "dropout", side, *place) % 2**63)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            vectors = self.encoder(features)["sentence_embedding"]
        return nn.functional.normalize(vectors.float(), dim=-1)


def _generator_of(device: torch.device) -> torch.Generator:
    """What dropout on a device draws from.

    `torch.manual_seed` seeds those of every other kind of device as well, and keeps a formatted stack for each that has
    not been started: milliseconds a call, and memory for ever.
    """
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _select(ids: np.ndarray, lengths: np.ndarray, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the sequences that stand one after the other in `ids`."""
    ends = np.cumsum(lengths)
    parts = [ids[ends[s] - lengths[s] : ends[s]] for s in sequences]
    return np.concatenate(parts), lengths[sequences]


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
