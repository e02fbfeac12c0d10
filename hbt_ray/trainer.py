"""The step of training on pairs: a batch's loss and its gradient, and gradient caching."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from hbt_ray.config import TrainConfig
from hbt_ray.dual_encoder import DualEncoder, passage_rows
from hbt_ray.loss import in_batch_loss
from hbt_ray.packing import transformer_of
from hbt_ray.plan import rank_pairs
from hbt_ray.precision import uses_bf16
from hbt_ray.records import Batch
from hbt_ray.stepper import Stepper, freeze_unused, maybe_no_sync, num_ranks


class Trainer(Stepper[Batch]):
    """An encoder trained on pairs."""

    train: TrainConfig

    def __init__(self, encoder: SentenceTransformer, train: TrainConfig, *, seed: int) -> None:
        self.encoder = encoder
        bf16 = uses_bf16(train.precision, encoder.device)
        self.dual = DualEncoder(
            encoder, seed=seed, chunk_pairs=train.chunk_pairs, bf16=bf16, piece_tokens=train.chunk_tokens
        )
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

    def loss(self, batch: Batch) -> Tensor:
        return self._loss_of(batch, *self.model(batch))

    def _loss_of(self, batch: Batch, query_vectors: Tensor, passage_vectors: Tensor) -> Tensor:
        device = query_vectors.device
        return in_batch_loss(
            query_vectors,
            passage_vectors,
            torch.tensor(batch.query_keys, device=device),
            torch.tensor(batch.passage_keys, device=device),
            temperature=self.train.temperature,
            gather_negatives=self.train.gather_negatives,
            rank_pairs=rank_pairs(batch.global_pairs, num_ranks(), self.train.chunk_pairs),
        )

    def backward(self, batch: Batch, weight: float = 1.0, synchronise: bool = True) -> Tensor:
        if self._caches:
            return self._backward_in_pieces(batch, weight, synchronise)
        with maybe_no_sync(self.model, synchronise):
            loss = self.loss(batch)
            (loss * weight).backward()
        return loss.detach()

    def _backward_in_pieces(self, batch: Batch, weight: float, synchronise: bool) -> Tensor:
        """With the activations of one piece at a time: gradient caching (Gao et al. 2021, arXiv 2101.06983).

        All vectors are computed without activations, then the loss's gradient by each vector, then each piece anew
        with its activations, and its vectors' gradient through it. Dropout follows from a piece's place, so a piece
        comes out the same twice.
        """
        pieces = self.dual.pieces(batch)
        with torch.no_grad():
            # Through the bare module: DDP wants a backward for each of its own forwards.
            parts = [self.dual(batch, [piece]) for piece in pieces]
        queries = torch.cat([asked for asked, _ in parts]).requires_grad_()
        own_rows = [torch.from_numpy(passage_rows(batch, piece)).to(queries.device) for piece in pieces]
        answers = torch.cat([answered for _, answered in parts])
        passages = torch.empty_like(answers)
        passages[torch.cat(own_rows)] = answers
        passages.requires_grad_()
        loss = self._loss_of(batch, queries, passages)
        of_queries, of_passages = torch.autograd.grad(loss * weight, (queries, passages))
        for piece, rows in zip(pieces, own_rows, strict=True):
            with maybe_no_sync(self.model, synchronise and piece is pieces[-1]):
                vectors = self.model(batch, [piece])
                torch.autograd.backward(vectors, (of_queries[piece.start : piece.end], of_passages[rows]))
        return loss.detach()
