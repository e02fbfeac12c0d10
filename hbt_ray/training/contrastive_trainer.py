"""`ContrastiveTrainer`: the loss of a batch of question-passage pairs, and its gradient."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hbt_ray.config import LossConfig, RunConfig, TrainConfig
from hbt_ray.errors import ConfigError
from hbt_ray.losses.base import LossInputs, RankLayout, TeacherEmbeddings
from hbt_ray.losses.combined import CombinedLoss
from hbt_ray.models.dual_encoder import DualEncoder
from hbt_ray.models.encoder import load_for_training, open_teacher
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.models.precision import resolve_bf16
from hbt_ray.sampling import pairs_per_rank
from hbt_ray.sampling.batch import PairBatch
from hbt_ray.training.base_trainer import BaseTrainer, freeze_unused, maybe_no_sync, num_ranks
from hbt_ray.training.grad_cache import backward_with_gradient_cache


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
        self.teacher: nn.Module | None = None
        if teacher is not None:
            self.teacher = DualEncoder(
                teacher, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, max_tokens=train.chunk_tokens
            ).eval()
        ids = torch.zeros((1, 4), dtype=torch.long, device=encoder.device)
        probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        freeze_unused(encoder, lambda: encoder(probe)["sentence_embedding"][..., 0].sum())
        self._caches = train.gradient_caching or train.gradient_checkpointing
        if train.gradient_checkpointing:
            transformer_of(encoder).activation_checkpointing_enable({"use_reentrant": False})
        super().__init__(self.dual, encoder, train, encoder.device)

    @property
    def units(self) -> tuple[str, int]:
        return "pairs", self.train.global_batch_pairs

    def loss(self, batch: PairBatch) -> Tensor:
        return self._loss_of(batch, *self.model(batch))

    def _loss_of(self, batch: PairBatch, query_embeddings: Tensor, passage_embeddings: Tensor) -> Tensor:
        device = query_embeddings.device
        queries, translations = query_embeddings.split([batch.num_pairs, len(batch.translation_of)])
        global_layout = pairs_per_rank(batch.global_pairs, num_ranks(), self.train.chunk_pairs)
        loss: Tensor = self.combined_loss(
            LossInputs(
                queries,
                passage_embeddings,
                query_ids=torch.tensor(batch.query_keys, device=device),
                passage_ids=torch.tensor(batch.passage_keys, device=device),
                query_components=torch.tensor(batch.query_components, device=device),
                passage_components=torch.tensor(batch.passage_components, device=device),
                ranks=RankLayout.of_process_group(
                    batch.num_pairs, global_layout, gather_negatives=self.train.gather_negatives
                ),
                positives=batch.positives,
                translation_embeddings=translations,
                translation_of=torch.tensor(batch.translation_of, device=device),
                teacher=self._teacher_embeddings(batch),
            )
        )
        return loss

    @torch.no_grad()
    def _teacher_embeddings(self, batch: PairBatch) -> TeacherEmbeddings | None:
        if self.teacher is None:
            return None
        queries, passages = self.teacher(batch)
        return TeacherEmbeddings(queries[: batch.num_pairs], passages)

    def backward(self, batch: PairBatch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        if self._caches:
            return backward_with_gradient_cache(
                self.dual,
                self.model,
                batch,
                functools.partial(self._loss_of, batch),
                weight=weight,
                synchronise=synchronise,
            )
        with maybe_no_sync(self.model, synchronise):
            loss = self.loss(batch)
            (loss * weight).backward()
        return loss.detach()


def build_contrastive_trainer(config: RunConfig, initial_model: str | Path, device: str) -> ContrastiveTrainer:
    """Build the trainer of a run from its initial encoder.

    Raises:
        ConfigError: the encoder or its teacher cannot be loaded, or does not fit the settings.
    """
    encoder = load_for_training(config.model, config.text, initial_model, device=device, seed=config.seed)
    distillation = config.loss.distillation
    teacher = open_teacher(distillation.teacher, encoder, config.model) if distillation else None
    return ContrastiveTrainer(encoder, config.train, seed=config.seed, loss=config.loss, teacher=teacher)


def _check_widths(loss: LossConfig, encoder: SentenceTransformer) -> None:
    """Raise ConfigError if `loss.matryoshka` names a dimension above that of the embeddings."""
    width = encoder.get_embedding_dimension()
    too_wide = [cut for cut in loss.matryoshka if width is not None and cut > width]
    if too_wide:
        raise ConfigError(
            f"loss.matryoshka names {too_wide[0]}, and the encoder's vectors have {width} values; "
            f"write widths below {width}"
        )
