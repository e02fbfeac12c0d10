"""An encoder with a masked-language-model head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
class BlockMiniBatch:
    """Blocks that are encoded together and share a dropout key."""

    start: int  # index of the first block on this rank
    end: int  # exclusive
    number: int  # in the global batch


class MaskedLanguageModel(nn.Module):
    """Predict the masked tokens of blocks, a mini-batch at a time.

    Mini-batches form a fixed grid over the *global* batch, and the dropout of each has the key (seed, step, number), so
    it does not depend on the number of ranks.

    A packed encoder (`is_packed`) encodes each text of a block separately. Any other encodes a block as one text, whose
    parts attend to each other (as RoBERTa's FULL-SENTENCES, arXiv 1907.11692). Neither needs padding.

    Args:
        encoder: whose first module is the transformer.
        head: the rest of a masked language model, from `load_head`.
        seed: of dropout.
        chunk_blocks: blocks in a mini-batch.
        bf16: compute in bfloat16 by autocast.
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

    def mini_batches(self, blocks: TokenBlockBatch) -> list[BlockMiniBatch]:
        """Divide a rank's blocks at the grid over the global batch."""
        numbers = (blocks.first_block + np.arange(blocks.num_blocks)) // self.chunk_blocks
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = np.append(starts[1:], blocks.num_blocks)
        return [
            BlockMiniBatch(int(start), int(end), int(numbers[start])) for start, end in zip(starts, ends, strict=True)
        ]

    def forward(self, blocks: TokenBlockBatch, mini_batch: BlockMiniBatch) -> Tensor:
        """Return the sum of the cross-entropies of a mini-batch's masked tokens, a float32 scalar."""
        device = self.encoder.device
        tokens = slice(mini_batch.start * blocks.block_tokens, mini_batch.end * blocks.block_tokens)
        text_ends = np.cumsum(np.append(0, blocks.texts_per_block))
        first_text, last_text = text_ends[[mini_batch.start, mini_batch.end]]
        if self.training:
            self._dropout.set(device, self.seed, Salt.DROPOUT, blocks.step, mini_batch.number)
        labels = blocks.targets[tokens]
        is_target = np.flatnonzero(labels != IGNORE_INDEX)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            states = self.token_states(
                blocks.ids[tokens], blocks.lengths[first_text:last_text], mini_batch.end - mini_batch.start
            )
            logits = self.logits(states[torch.from_numpy(is_target).to(device)])
        target_ids = torch.from_numpy(labels[is_target].astype(np.int64)).to(device)
        return nn.functional.cross_entropy(logits.float(), target_ids, reduction="sum")

    def token_states(self, ids: np.ndarray, lengths: np.ndarray, num_blocks: int) -> Tensor:
        """Encode whole blocks.

        Args:
            ids: (tokens,) of all blocks.
            lengths: (texts,) of their texts.
            num_blocks: of equal length.

        Returns:
            (tokens, D) the transformer's last hidden states.
        """
        if is_packed(self.encoder):
            return packed_tokens(self.encoder, ids, lengths)
        rows = torch.from_numpy(ids.astype(np.int64)).view(num_blocks, -1).to(self.encoder.device)
        states: Tensor = self.encoder[0]({"input_ids": rows, "attention_mask": torch.ones_like(rows)})[
            "token_embeddings"
        ]
        return states.flatten(0, 1)

    def logits(self, states: Tensor) -> Tensor:
        """Apply the head to token states, (N, D) -> (N, vocabulary)."""
        logits: Tensor = self.head(inputs_embeds=states[None]).logits[0]
        return logits


class _IdentityEncoder(nn.Module):
    """Replace the encoder of a masked language model: return the states that it is given as `inputs_embeds`."""

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def load_head(
    path: str | Path,
    encoder: SentenceTransformer,
    *,
    seed: int,
    trust_remote_code: bool,
    token_counts: np.ndarray | None = None,
) -> nn.Module:
    """Load the masked-LM head of a saved model, or initialize one if it was saved without a head.

    1. Load transformers' masked-LM model of the encoder's family; missing weights follow from the seed.
    2. If the output bias is missing, set it to the log frequencies of the tokens.
    3. Put the encoder in the place of the model's, and tie the output weights to its word embeddings.
    4. Replace the encoder by an identity. What remains is the head, whatever the family calls its modules.

    The frequencies are (count + 1/2) / sum (Krichevsky and Trofimov 1981). A bias of 0 would have to learn them by
    gradients that pass through the shared word embeddings and move all of these in one direction, until texts can
    hardly be distinguished.

    Args:
        path: folder or hub name of the model.
        encoder: that the head is tied to.
        seed: of weights that were not saved.
        trust_remote_code: passed to transformers.
        token_counts: (tokens,) occurrences of each token in the training text; None: no step 2.
    """
    # 1. Model
    with without_progress_bars(), _errors_only(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash64(seed, Salt.HEAD_WEIGHTS) % 2**63)
        model, loaded = AutoModelForMaskedLM.from_pretrained(
            str(path),
            subfolder=transformer_subfolder(path),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    # 2. Bias
    bias = getattr(model.get_output_embeddings(), "bias", None)
    names = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is bias}
    if token_counts is not None and isinstance(bias, Tensor) and names & set(loaded["missing_keys"]):
        counts = np.zeros(len(bias))
        counts[: len(token_counts)] = token_counts[: len(bias)]
        with torch.no_grad():
            bias.copy_(torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())))
    # 3. Tied weights
    setattr(model, model.base_model_prefix, transformer_of(encoder))
    model.tie_weights()
    # 4. Head
    setattr(model, model.base_model_prefix, _IdentityEncoder())
    head: nn.Module = model.to(encoder.device)
    return head


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Suppress transformers' warning about missing weights: a head that was not saved is initialized on purpose."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
