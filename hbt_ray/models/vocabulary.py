"""Word embeddings of the tokens that occur in a store, trained without the rows of all other tokens.

A multilingual encoder has 250,000 rows or more, of which the texts of a store use a small part. The gradient of any
other row is zero, and so are AdamW's moments. Only weight decay moves it: each step multiplies it by 1 - learning rate
* weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101). These factors are recorded, and applied when the encoder
is saved, so its tensors have the bytes of a training with all rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.errors import CheckpointError
from hbt_ray.models.packed_attention import transformer_of

SUMMED_TOGETHER = 16  # numbers that a processor adds at once, at most
_VALUES = 2**17  # that are multiplied by all factors while they are in the processor's cache
_IDS = ".ids"  # ends the name of the ids in a file of weights


class OccurringEmbedding(nn.Embedding):
    """An embedding with rows for some of the token ids. It is called with the ids of the whole vocabulary.

    Its state has the weights, `ids` and `decay_factors`.

    Args:
        table: (vocabulary, E) embeddings of all ids.
        ids: (rows,) ids to keep, ascending. That of the padding token must be among them.
    """

    ids: Tensor  # (rows,) int32
    row_of_id: Tensor  # (vocabulary,) int32; -1: the id has no row
    decay_factors: Tensor  # (steps,) float32, by which the optimizer steps multiply the rows that are left out

    def __init__(self, table: nn.Embedding, ids: np.ndarray) -> None:
        kept = torch.from_numpy(ids.astype(np.int64)).to(table.weight.device)
        row_of_id = torch.full((table.num_embeddings,), -1, dtype=torch.int32, device=kept.device)
        row_of_id[kept] = torch.arange(len(kept), dtype=torch.int32, device=kept.device)
        padding = None if table.padding_idx is None else int(row_of_id[table.padding_idx])
        super().__init__(len(kept), table.embedding_dim, padding, _weight=table.weight.detach()[kept])
        self.register_buffer("ids", kept.int())
        self.register_buffer("row_of_id", row_of_id, persistent=False)
        self.register_buffer("decay_factors", torch.empty(0, device=kept.device))
        self._left_out = (row_of_id < 0).nonzero()[:1, 0]  # one id, to compare with a state of all rows
        self._initial = table.weight.detach()[self._left_out]

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the embeddings of ids, (..., E). Raise ValueError for an id that has no row."""
        rows = self.row_of_id[ids]
        if (rows < 0).any():
            raise ValueError(f"the token id {int(ids[rows < 0][0])} occurs in no text of the store")
        return super().forward(rows)

    def record_decay(self, learning_rate: float, weight_decay: float) -> None:
        """Record an optimizer step. Its factor is rounded to float32 as torch's fused AdamW rounds it on a CPU."""
        factor = self.decay_factors.new_tensor([1 - learning_rate * weight_decay])
        self.decay_factors = torch.cat([self.decay_factors, factor])

    @torch.no_grad()
    def restore(self, table: nn.Embedding) -> None:
        """Turn the initial embeddings of all ids into those of a training with all rows, in place."""
        left_out = (self.row_of_id < 0).nonzero()[:, 0]
        for rows in left_out.split(max(_VALUES // table.embedding_dim, 1)):
            table.weight[rows] = self._decayed(table.weight[rows])
        table.weight[self.ids.long()] = self.weight

    def _decayed(self, rows: Tensor) -> Tensor:
        """Return (N, E) initial embeddings of ids that are left out as they are after the recorded steps."""
        rows = rows.clone()
        for factor in self.decay_factors.tolist():
            if factor != 1:
                rows.mul_(factor)
        return rows

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        """Load a state. Of one with all rows take those of the ids, after the decay of its steps was recorded.

        Raises:
            CheckpointError: the state has other ids, or its rows did not decay as recorded.
        """
        saved = state_dict.get(f"{prefix}ids")
        if saved is None:
            weight = state_dict[f"{prefix}weight"].to(self.weight.device)
            if not torch.equal(weight[self._left_out], self._decayed(self._initial)):
                raise CheckpointError(
                    "the checkpoint has all word embeddings, and steps were skipped or had other learning rates than "
                    "this run's; write train.vocabulary=all"
                )
            state_dict[f"{prefix}ids"] = self.ids
            state_dict[f"{prefix}decay_factors"] = self.decay_factors
            state_dict[f"{prefix}weight"] = weight[self.ids.long()]
        elif not torch.equal(saved, self.ids.cpu()):
            raise CheckpointError(
                "the checkpoint has word embeddings of other tokens than those that occur in the store; "
                "write --fresh to start over"
            )
        else:
            self.decay_factors = self.decay_factors.new_empty(len(state_dict[f"{prefix}decay_factors"]))
        super()._load_from_state_dict(state_dict, prefix, *others)


def occurring_embedding(module: nn.Module) -> OccurringEmbedding | None:
    """Return the word embeddings of a model that has not those of all tokens; None if it has."""
    return next((part for part in module.modules() if isinstance(part, OccurringEmbedding)), None)


def occurring_fault(encoder: SentenceTransformer, tables: Collection[type] = (nn.Embedding,)) -> str | None:
    """Return why an encoder cannot be trained without some rows of its word embeddings, or None if it can.

    Args:
        encoder: to train.
        tables: types of the table that are possible.
    """
    transformer = transformer_of(encoder)
    table = None if transformer is None else transformer.get_input_embeddings()
    if table is None or type(table) not in tables:
        return "the model has no plain table of word embeddings"
    if not table.weight.requires_grad:
        return "its word embeddings are not trained"
    names = [name for name, weight in encoder.named_parameters(remove_duplicate=False) if weight is table.weight]
    if len(names) > 1:
        return f"its word embeddings are tied: they are also {names[1]}"
    return None


def keep_occurring(encoder: SentenceTransformer, ids: np.ndarray) -> None:
    """Leave the word embeddings of all ids but these out of an encoder that has no `occurring_fault`."""
    transformer = transformer_of(encoder)
    transformer.set_input_embeddings(OccurringEmbedding(transformer.get_input_embeddings(), ids))


def required_ids(encoder: SentenceTransformer) -> np.ndarray:
    """Return the ids that an encoder needs besides those of texts: special tokens, and 0, which fills packed rows."""
    table = transformer_of(encoder).get_input_embeddings()
    ids = np.unique([0, table.padding_idx or 0, *encoder.tokenizer.all_special_ids])
    return ids[ids < table.num_embeddings]


@contextlib.contextmanager
def without_other_rows(encoder: nn.Module, ids: np.ndarray) -> Iterator[None]:
    """Give an initial encoder only the rows of some ids, for loading a state; then compute all rows, in place."""
    assert isinstance(encoder, SentenceTransformer)
    transformer = transformer_of(encoder)
    table = transformer.get_input_embeddings()
    occurring = OccurringEmbedding(table, ids)
    transformer.set_input_embeddings(occurring)
    try:
        yield
    finally:
        transformer.set_input_embeddings(table)
    occurring.restore(table)


def saved_ids(file: Path) -> np.ndarray | None:
    """Return the ids of the word embeddings in a file of weights, or None if it has all rows."""
    with safe_open(file, "numpy") as tensors:
        name = next((name for name in tensors.keys() if name.endswith(_IDS)), None)  # noqa: SIM118, it is no dict
        return None if name is None else tensors.get_tensor(name)


def fit_moments(moments: dict[str, Tensor], encoder: nn.Module, saved: np.ndarray | None) -> dict[str, Tensor]:
    """Give AdamW's moments of the word embeddings the rows that an encoder has.

    Args:
        moments: tensors of the optimizer by name; those that have other rows are replaced.
        encoder: whose parameters they belong to.
        saved: the ids that they have rows for; None: all.
    """
    occurring = occurring_embedding(encoder)
    if (saved is None) == (occurring is None):
        return moments
    assert isinstance(encoder, SentenceTransformer)
    table = transformer_of(encoder).get_input_embeddings()
    name = next(name for name, weight in encoder.named_parameters() if weight is table.weight)
    for key, values in moments.items():
        if key.endswith(f".{name}") and values.ndim == 2:
            if saved is None:
                moments[key] = values[table.ids.long().cpu()]
            else:
                moments[key] = values.new_zeros(table.weight.shape).index_copy(
                    0, torch.from_numpy(saved).long(), values
                )
    return moments
