"""An encoder with a head that tells masked tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging as transformers_logging

from hbt_ray.data.tokenizer import transformer_subfolder
from hbt_ray.models.deterministic_dropout import DropoutKey, key_dropout
from hbt_ray.models.encoder import without_progress_bars
from hbt_ray.models.packed_attention import is_packed, packed_tokens, transformer_of
from hbt_ray.pretraining.batch import TokenBlockBatch
from hbt_ray.pretraining.masking import IGNORE_INDEX
from hbt_ray.utils.counter_rng import Salt, stable_hash64


@dataclass(frozen=True, slots=True)
class Chunk:
    """Blocks that pass the encoder together."""

    start: int  # the first on this rank
    end: int  # behind the last
    number: int  # in the global batch


class MaskedLanguageModel(nn.Module):
    """Tells the masked tokens of blocks, some blocks at a time.

    Chunks lie on a fixed grid over the *global* batch, and dropout is drawn anew for each from (seed, step, chunk). An
    encoder that `is_packed` sees each text of a block alone; any other sees a block as one text, whose parts attend to
    each other (as RoBERTa's full sentences, arXiv 1907.11692). Neither pays for padding.
    """

    def __init__(
        self, encoder: SentenceTransformer, head: nn.Module, *, seed: int, chunk_blocks: int, bf16: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.seed = seed
        self.chunk_blocks = chunk_blocks
        self.bf16 = bf16
        self._dropout = key_dropout(encoder) if is_packed(encoder) else DropoutKey()

    def chunks(self, blocks: TokenBlockBatch) -> list[Chunk]:
        """What passes the encoder together."""
        numbers = (blocks.first_block + np.arange(blocks.num_blocks)) // self.chunk_blocks
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = np.append(starts[1:], blocks.num_blocks)
        return [Chunk(int(start), int(end), int(numbers[start])) for start, end in zip(starts, ends, strict=True)]

    def forward(self, blocks: TokenBlockBatch, chunk: Chunk) -> Tensor:
        """The sum of the cross-entropies of a chunk's masked tokens, float32."""
        device = self.encoder.device
        tokens = slice(chunk.start * blocks.block_tokens, chunk.end * blocks.block_tokens)
        first_text, last_text = np.cumsum(np.append(0, blocks.texts_per_block))[[chunk.start, chunk.end]]
        if self.training:
            self._dropout.set(device, self.seed, Salt.DROPOUT, blocks.step, chunk.number)
        targets = blocks.targets[tokens]
        told = np.flatnonzero(targets != IGNORE_INDEX)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            states = self.token_states(
                blocks.ids[tokens], blocks.lengths[first_text:last_text], chunk.end - chunk.start
            )
            scores = self.scores(states[torch.from_numpy(told).to(device)])
        right = torch.from_numpy(targets[told].astype(np.int64)).to(device)
        return nn.functional.cross_entropy(scores.float(), right, reduction="sum")

    def token_states(self, ids: np.ndarray, lengths: np.ndarray, num_blocks: int) -> Tensor:
        """(tokens, D) of whole blocks."""
        if is_packed(self.encoder):
            return packed_tokens(self.encoder, ids, lengths)
        rows = torch.from_numpy(ids.astype(np.int64)).view(num_blocks, -1).to(self.encoder.device)
        states: Tensor = self.encoder[0]({"input_ids": rows, "attention_mask": torch.ones_like(rows)})[
            "token_embeddings"
        ]
        return states.flatten(0, 1)

    def scores(self, states: Tensor) -> Tensor:
        """(N, vocabulary) of (N, D) token states, before the softmax."""
        scores: Tensor = self.head(inputs_embeds=states[None]).logits[0]
        return scores


class _IdentityEncoder(nn.Module):
    """Stands where a model's encoder was, and hands on the states that it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def load_head(
    path: str | Path,
    encoder: SentenceTransformer,
    *,
    seed: int,
    trust_remote_code: bool,
    token_counts: np.ndarray | None = None,
) -> nn.Module:
    """The masked-LM head of a saved model, tied to an encoder; from the seed, where the model was saved without one.

    It is what remains of transformers' model when its encoder is taken out, so every family's is found.

    Args:
        token_counts: (tokens,) how often each stands in the text. A head that was not saved begins with their
            frequencies as its guess: the logarithm of each token's share, half an occurrence added (Krichevsky and
            Trofimov 1981), is its bias. One that begins with none learns them through the word embeddings that it
            shares with the encoder, all of which move in one direction, until texts are hardly told apart.
    """
    with without_progress_bars(), _without_report(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash64(seed, Salt.HEAD_WEIGHTS) % 2**63)
        whole, loaded = AutoModelForMaskedLM.from_pretrained(
            str(path),
            subfolder=transformer_subfolder(path),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    bias = getattr(whole.get_output_embeddings(), "bias", None)
    names = {name for name, parameter in whole.named_parameters(remove_duplicate=False) if parameter is bias}
    if token_counts is not None and isinstance(bias, Tensor) and names & set(loaded["missing_keys"]):
        counts = np.zeros(len(bias))
        counts[: len(token_counts)] = token_counts[: len(bias)]
        with torch.no_grad():
            bias.copy_(torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())))
    setattr(whole, whole.base_model_prefix, transformer_of(encoder))
    whole.tie_weights()
    setattr(whole, whole.base_model_prefix, _IdentityEncoder())
    head: nn.Module = whole.to(encoder.device)
    return head


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' notice that an encoder was saved without a head: it is made then."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
