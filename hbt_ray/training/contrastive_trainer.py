"""`ContrastiveTrainer`: the loss of a batch of question-passage pairs, and its gradient."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from hbt_ray.config import LossConfig, RunConfig, TrainConfig
from hbt_ray.data.token_store import TokenStore
from hbt_ray.errors import ConfigError
from hbt_ray.losses.base import LossInputs, RankLayout, TeacherEmbeddings
from hbt_ray.losses.combined import CombinedLoss
from hbt_ray.models.dual_encoder import DualEncoder
from hbt_ray.models.encoder import load_for_training, open_teacher
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.precision import resolve_bf16
from hbt_ray.models.vocabulary import (
    SUMMED_TOGETHER,
    keep_occurring,
    occurring_embedding,
    occurring_fault,
    required_ids,
)
from hbt_ray.sampling import pairs_per_rank
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.base_trainer import BaseTrainer, freeze_unused, maybe_no_sync, num_ranks
from hbt_ray.training.grad_cache import backward_with_gradient_cache
from hbt_ray.training.reproducible import (
    ReproducibleGradient,
    backward_reproducibly,
    global_inputs,
    join_micro_batches,
)
from hbt_ray.training.row_gradient import open_row_gradient

logger = logging.getLogger(__name__)

MAX_OCCURRING = 0.5  # fraction of the rows; above it, train.vocabulary=auto keeps all


class ContrastiveTrainer(BaseTrainer[PairBatch]):
    """Trains an encoder on question-passage pairs.

    Args:
        encoder: to train.
        train: settings of the training.
        seed: of dropout.
        loss: settings of the loss; by default InfoNCE only.
        teacher: a frozen encoder on the same device; required by `loss.distillation`.

    Raises:
        ConfigError: `loss.matryoshka` names a dimension above the encoder's.
    """

    train: TrainConfig

    def __init__(
        self,
        encoder: SentenceTransformer,
        train: TrainConfig,
        *,
        seed: int,
        loss: LossConfig | None = None,
        teacher: SentenceTransformer | None = None,
    ) -> None:
        self.encoder = encoder
        loss = loss or LossConfig()
        _check_widths(loss, encoder)
        self.combined_loss = CombinedLoss.from_config(loss, train.temperature)
        bf16 = resolve_bf16(train.precision, encoder.device)
        self.dual = DualEncoder(
            encoder, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, max_tokens=train.chunk_tokens
        )
        self.teacher: DualEncoder | None = None
        if teacher is not None:
            self.teacher = DualEncoder(
                teacher, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, max_tokens=train.chunk_tokens
            ).eval()
        ids = torch.zeros((1, 4), dtype=torch.long, device=encoder.device)
        probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        freeze_unused(encoder, lambda: encoder(probe)["sentence_embedding"][..., 0].sum())
        self._caches = train.gradient_caching or train.gradient_checkpointing
        if train.gradient_checkpointing:
            _check_recomputes(encoder)
            transformer_of(encoder).activation_checkpointing_enable({"use_reentrant": False})
        rows = open_row_gradient(encoder, train, num_ranks())
        super().__init__(self.dual, encoder, train, encoder.device, rows)
        self._reproducible: ReproducibleGradient | None = None
        if train.reproducible:
            # A micro-batch has a pair at least.
            addends = train.global_batch_pairs * train.gradient_accumulation
            self._reproducible = ReproducibleGradient(self.dual, rows, addends)
        # Of tokens that fill a rectangle, too.
        self._special_ids = np.array([0, *encoder.tokenizer.all_special_ids])
        occurring = occurring_embedding(encoder)
        if occurring is not None:
            self.optimizer.register_step_post_hook(
                lambda optimizer, *_: occurring.record_decay(optimizer.param_groups[0]["lr"], train.weight_decay)
            )

    @property
    def units(self) -> tuple[str, int]:
        return "pairs", self.train.global_batch_pairs

    def token_ids(self, batches: Sequence[PairBatch]) -> np.ndarray | None:
        if num_ranks() > 1:
            ids = [batch.global_ids for batch in batches]
            if not all(map(len, ids)):
                return None
        else:
            ids = [texts for batch in batches for texts in (batch.query_ids, batch.passage_ids)]
        return np.concatenate([self._special_ids, *ids])

    @property
    def sums_gradients(self) -> bool:
        return self.train.reproducible

    def finish_gradient(self) -> None:
        if self._reproducible is not None:
            self._reproducible.finish()

    def loss(self, batch: PairBatch) -> Tensor:
        if not self.train.reproducible:
            return self._loss_of(batch, *self.model(batch))
        micro_batches = self.dual.micro_batches(batch)
        vectors = [self.dual(batch, [micro_batch]) for micro_batch in micro_batches]
        inputs = self._inputs_of(batch, *join_micro_batches(self.dual, batch, micro_batches, vectors))
        loss: Tensor = self.combined_loss(global_inputs(inputs, batch, self._layout(batch)))
        return loss

    def _loss_of(self, batch: PairBatch, query_embeddings: Tensor, passage_embeddings: Tensor) -> Tensor:
        loss: Tensor = self.combined_loss(self._inputs_of(batch, query_embeddings, passage_embeddings))
        return loss

    def _layout(self, batch: PairBatch) -> list[int]:
        return pairs_per_rank(batch.global_pairs, num_ranks(), self.train.chunk_pairs)

    def _inputs_of(self, batch: PairBatch, query_embeddings: Tensor, passage_embeddings: Tensor) -> LossInputs:
        device = query_embeddings.device
        queries, translations = query_embeddings.split([batch.num_pairs, len(batch.translation_of)])
        return LossInputs(
            queries,
            passage_embeddings,
            query_ids=torch.tensor(batch.query_keys, device=device),
            passage_ids=torch.tensor(batch.passage_keys, device=device),
            query_components=torch.tensor(batch.query_components, device=device),
            passage_components=torch.tensor(batch.passage_components, device=device),
            ranks=RankLayout.of_process_group(
                batch.num_pairs, self._layout(batch), gather_negatives=self.train.gather_negatives
            ),
            positives=batch.positives,
            translation_embeddings=translations,
            translation_of=torch.tensor(batch.translation_of, device=device),
            teacher=self._teacher_embeddings(batch),
        )

    @torch.no_grad()
    def _teacher_embeddings(self, batch: PairBatch) -> TeacherEmbeddings | None:
        if self.teacher is None:
            return None
        queries, passages = self.teacher(batch)
        return TeacherEmbeddings(queries[: batch.num_pairs], passages)

    def backward(self, batch: PairBatch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        if self._reproducible is not None:
            return backward_reproducibly(
                self.dual,
                batch,
                functools.partial(self._inputs_of, batch),
                self.combined_loss,
                self._reproducible,
                layout=self._layout(batch),
                caches=self._caches,
                weight=weight,
            )
        if self._caches:
            return backward_with_gradient_cache(
                self.dual,
                self.model,
                batch,
                functools.partial(self._loss_of, batch),
                weight=weight,
                synchronise=synchronise,
                kept_bytes=self.train.kept_activations_mib * 2**20,
            )
        with maybe_no_sync(self.model, synchronise):
            loss = self.loss(batch)
            (loss * weight).backward()
        return loss.detach()


def build_contrastive_trainer(
    config: RunConfig, initial_model: str | Path, device: str, store: TokenStore | None = None
) -> ContrastiveTrainer:
    """Build the trainer of a run from its initial encoder.

    Args:
        config: of the run.
        initial_model: folder or hub name of the encoder.
        device: to train on.
        store: of the texts, for `train.vocabulary`; None: all word embeddings are trained.

    Raises:
        ConfigError: the encoder or its teacher cannot be loaded, or does not fit the settings.
    """
    encoder = load_for_training(config.model, config.text, initial_model, device=device, seed=config.seed)
    distillation = config.loss.distillation
    teacher = open_teacher(distillation.teacher, encoder, config.model) if distillation else None
    if store is not None and _may_keep_occurring(encoder, config.train):
        ids = np.union1d(store.token_ids(), required_ids(encoder))
        all_rows = transformer_of(encoder).get_input_embeddings().num_embeddings
        if config.train.vocabulary == "occurring" or len(ids) <= MAX_OCCURRING * all_rows:
            logger.info(
                "training %s of %s word embeddings, those of the tokens that occur", f"{len(ids):,}", f"{all_rows:,}"
            )
            keep_occurring(encoder, ids)
    return ContrastiveTrainer(encoder, config.train, seed=config.seed, loss=config.loss, teacher=teacher)


def _may_keep_occurring(encoder: SentenceTransformer, train: TrainConfig) -> bool:
    """Return whether `train.vocabulary` permits to train only the word embeddings of tokens that occur.

    `auto` permits it where it changes no bit. Two things could: the gradient's norm is a float32 sum, whose order is
    the same without rows of zeros if a row is a whole number of vector registers; and gloo sums the gradients of three
    ranks or more in an order that depends on the number of parameters.

    Raises:
        ConfigError: `occurring` is not possible with this encoder.
    """
    if train.vocabulary == "all":
        return False
    fault = occurring_fault(encoder)
    if train.vocabulary == "occurring":
        if fault is not None:
            raise ConfigError(f"train.vocabulary=occurring is not possible: {fault}; write train.vocabulary=all")
        return True
    return (
        fault is None
        and transformer_of(encoder).get_input_embeddings().embedding_dim % SUMMED_TOGETHER == 0
        and encoder.device.type == "cpu"
        and train.max_workers <= 2
    )


def _check_recomputes(encoder: SentenceTransformer) -> None:
    """Raise ConfigError if transformers cannot recompute the activations of an encoder's family."""
    transformer = transformer_of(encoder)
    if not transformer.supports_gradient_checkpointing:
        raise ConfigError(
            f"transformers does not support train.gradient_checkpointing for the family "
            f"{transformer.config.model_type!r}; write train.gradient_checkpointing=false train.gradient_caching=true"
        )


def _check_widths(loss: LossConfig, encoder: SentenceTransformer) -> None:
    """Raise ConfigError if `loss.matryoshka` names a dimension above that of the embeddings."""
    width = encoder.get_embedding_dimension()
    too_wide = [cut for cut in loss.matryoshka if width is not None and cut > width]
    if too_wide:
        raise ConfigError(
            f"loss.matryoshka names {too_wide[0]}, and the encoder's vectors have {width} values; "
            f"write widths below {width}"
        )
